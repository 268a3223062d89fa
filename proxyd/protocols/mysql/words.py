"""The errors proxyd itself gives a client: code and SQLSTATE of each, by the servers' own lists."""

from __future__ import annotations

from typing import Final

from proxyd.protocols.mysql.wire import Command

UNREACHABLE: Final = (1429, "HY000")  # ER_CONNECT_TO_FOREIGN_DATA_SOURCE
FAILED: Final = (1105, "HY000")  # ER_UNKNOWN_ERROR
BAD_HANDSHAKE: Final = (1043, "08S01")
ACCESS_DENIED: Final = (1045, "28000")
NEEDS_TLS: Final = (3159, "HY000")
DENIED: Final = (1227, "42000")  # ER_SPECIFIC_ACCESS_DENIED_ERROR: the connection stays good
UNKNOWN: Final = (1047, "08S01")  # ER_UNKNOWN_COM_ERROR
MALFORMED: Final = (1835, "HY000")  # ER_MALFORMED_PACKET
KILLED: Final = (1927, "70100")  # ER_CONNECTION_KILLED

NOT_HERE: Final = {
    Command.CHANGE_USER: "A session of the proxy is one user's: log in again.",
    Command.BINLOG_DUMP: "Replication is not allowed through the proxy.",
    Command.BINLOG_DUMP_GTID: "Replication is not allowed through the proxy.",
    Command.REGISTER_SLAVE: "Replication is not allowed through the proxy.",
    Command.TABLE_DUMP: "Replication is not allowed through the proxy.",
}
TOO_LONG: Final = "The statement is too long for the rules that apply here"
SPOILED: Final = "Some of its data was refused before"
