"""Real RDP servers and clients on X displays of their own: xrdp, FreeRDP's shadow server, xfreerdp, rdesktop.

Rule 1: every display, port, account and directory belongs to one instance, so several run at once.
Rule 2: leaving a `with` ends every process of it and removes what it put outside its directory, whatever was raised.
Rule 3: screens are compared pixel by pixel as X servers give them: no image format and no tolerance between.
"""
