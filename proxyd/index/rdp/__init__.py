"""RDP recordings of the `bitmap` policy: from the frames on the tape to pictures, keystrokes and sound.

`screen` paints, `keys` reads what was typed, `audio` what was heard. All of it is pure: records in, values out.
"""
