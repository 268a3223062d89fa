"""The .rdp file: what mstsc, FreeRDP and other clients open to reach one target (key:type:value, one a line).

mstsc takes a password only encrypted for the Windows user who opens the file (`password 51`, DPAPI), so for it the token
is typed or pasted; FreeRDP also reads one in clear (`password`), which mstsc passes over.
"""

from __future__ import annotations

from typing import Final

ENCODING: Final = "utf-16-le"  # with a byte order mark, as mstsc writes them; FreeRDP and Remmina read both
MARK: Final = "\ufeff"
END_OF_LINE: Final = "\r\n"
WARN_OF_SERVER: Final = 2  # `authentication level`: ask the user about a certificate that is not trusted


def render(address: str, username: str, token: str = "") -> bytes:
    """Write the file; with a token it is a credential."""
    lines = [
        f"full address:s:{address}",
        f"username:s:{username}",
        "enablecredsspsupport:i:1",  # NLA
        f"authentication level:i:{WARN_OF_SERVER}",
        "prompt for credentials:i:0" if token else "prompt for credentials:i:1",
        "autoreconnection enabled:i:1",
    ]
    if token:
        lines.append(f"password:s:{token}")
    return (MARK + "".join(line + END_OF_LINE for line in lines)).encode(ENCODING)
