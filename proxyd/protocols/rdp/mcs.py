"""MCS (T.125), as far as RDP uses it: how a conference begins, who is in it, and the data on its channels.

Rule 1: whatever a peer sends is a value or a WireError.
Rule 2: a Send Data message is one whole PDU, as RDP demands; a part of one is refused, for nobody could judge it.
Rule 3: what stands behind a message in its frame is refused: a peer might read it, and we would not.

MS-RDPBCGR 2.2.1.3 to 2.2.1.9 and 2.2.2.3; BER (X.690) for the connect messages, aligned PER (X.691) for all others.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final, NamedTuple

from proxyd.protocols.rdp.wire import DATA_HEADER, DATA_TPDU, Reader, WireError, build_data_tpdu, u16_big

USER_ID_BASE: Final = 1001  # T.125 7: the least UserId; PER sends what is above it
GLOBAL_CHANNEL: Final = 1003  # MS-RDPBCGR 2.2.1.4.4: the I/O channel of every known server
SERVER_USER: Final = 1002  # the initiator of what servers send
_CONNECT_INITIAL: Final = b"\x7f\x65"  # T.125 7: [APPLICATION 101]
_CONNECT_RESPONSE: Final = b"\x7f\x66"  # [APPLICATION 102]
_BOOLEAN: Final = 0x01
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_ENUMERATED: Final = 0x0A
_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80
_MAX_LENGTH_BYTES: Final = 2  # of a BER length: a frame has less than 64 KiB
_MAX_INTEGER_BYTES: Final = 4
_WHOLE: Final = 0x30  # of priority and segmentation: begin and end
_PRIORITY: Final = 0x70  # high, begin, end: what Windows sends
_PER_LONG: Final = 0x8000
_PER_SHORT_MAX: Final = 0x7F
_PER_MAX: Final = 0x7FFF  # peers use 15 bits where X.691 10.9 has 14


class Choice(enum.IntEnum):
    """DomainMCSPDU, T.125 7: six bits at the beginning of a message."""

    ERECT_DOMAIN_REQUEST = 1
    DISCONNECT_PROVIDER_ULTIMATUM = 8
    ATTACH_USER_REQUEST = 10
    ATTACH_USER_CONFIRM = 11
    CHANNEL_JOIN_REQUEST = 14
    CHANNEL_JOIN_CONFIRM = 15
    SEND_DATA_REQUEST = 25
    SEND_DATA_INDICATION = 26


class Reason(enum.IntEnum):
    """Why a provider disconnects, T.125 7."""

    DOMAIN_DISCONNECTED = 0
    PROVIDER_INITIATED = 1
    TOKEN_PURGED = 2
    USER_REQUESTED = 3
    CHANNEL_PURGED = 4


class DomainParameters(NamedTuple):
    """Limits of a conference, T.125 7."""

    channels: int
    users: int
    tokens: int
    priorities: int
    throughput: int
    height: int
    pdu_size: int
    version: int


OUR_PARAMETERS: Final = DomainParameters(
    34, 3, 0, 1, 0, 1, 0xFFF8, 2
)  # what Windows answers, MS-RDPBCGR 4.1.4


class ConnectInitial(NamedTuple):
    """Connect-Initial, MS-RDPBCGR 2.2.1.3; `user_data` is what `gcc` reads."""

    target: DomainParameters
    minimum: DomainParameters
    maximum: DomainParameters
    user_data: bytes


class ConnectResponse(NamedTuple):
    """Connect-Response, MS-RDPBCGR 2.2.1.4; `result` is 0 when the conference stands."""

    result: int
    parameters: DomainParameters
    user_data: bytes


class ErectDomainRequest(NamedTuple):
    """Erect Domain Request, 2.2.1.5; its two numbers mean nothing in RDP."""


class AttachUserRequest(NamedTuple):
    """Attach User Request, 2.2.1.6."""


class AttachUserConfirm(NamedTuple):
    """Attach User Confirm, 2.2.1.7."""

    result: int
    user: int


class ChannelJoinRequest(NamedTuple):
    """Channel Join Request, 2.2.1.8."""

    user: int
    channel: int


class ChannelJoinConfirm(NamedTuple):
    """Channel Join Confirm, 2.2.1.9; `channel` is the one that was joined."""

    result: int
    user: int
    requested: int
    channel: int


class Data(NamedTuple):
    """Send Data Request of a client or Send Data Indication of a server, 2.2.1.10 and all that follow."""

    initiator: int
    channel: int
    payload: bytes


class Disconnect(NamedTuple):
    """Disconnect Provider Ultimatum, 2.2.2.3."""

    reason: int


Message = (
    ErectDomainRequest
    | AttachUserRequest
    | AttachUserConfirm
    | ChannelJoinRequest
    | ChannelJoinConfirm
    | Data
    | Disconnect
)


# ---------------------------------------------------------------------------------------------- BER


def _ber_length(reader: Reader) -> int:
    first = reader.u8()
    if not first & _LONG_FORM:
        return first
    size = first & ~_LONG_FORM
    if not 0 < size <= _MAX_LENGTH_BYTES:
        raise WireError(f"{reader.what} has an impossible length")
    return int.from_bytes(reader.take(size), "big")


def _ber_value(reader: Reader, tag: int) -> Reader:
    if reader.u8() != tag:
        raise WireError(f"{reader.what} has a field of a wrong kind")
    return reader.part(_ber_length(reader), reader.what)


def _ber_integer(reader: Reader, tag: int = _INTEGER) -> int:
    value = _ber_value(reader, tag)
    if not 0 < value.left <= _MAX_INTEGER_BYTES:
        raise WireError(f"{reader.what} has a number of impossible size")
    return int.from_bytes(value.rest(), "big")  # none is negative


def _ber_parameters(reader: Reader) -> DomainParameters:
    values = _ber_value(reader, _SEQUENCE)
    found = DomainParameters._make(_ber_integer(values) for _ in DomainParameters._fields)
    values.done()
    return found


def _ber(tag: bytes, value: bytes) -> bytes:
    size = len(value)
    if size < _LONG_FORM:
        return tag + bytes((size,)) + value
    return tag + b"\x82" + u16_big(size) + value


def _to_integer(number: int, tag: int = _INTEGER) -> bytes:
    size = number.bit_length() // 8 + 1  # with the sign's bit
    return _ber(bytes((tag,)), number.to_bytes(size, "big"))


def _to_parameters(parameters: DomainParameters) -> bytes:
    return _ber(bytes((_SEQUENCE,)), b"".join(map(_to_integer, parameters)))


def _to_octets(data: bytes) -> bytes:
    return _ber(bytes((_OCTETS,)), data)


# ---------------------------------------------------------------------------------------------- connect messages


def _connect(frame: bytes, tag: bytes, what: str) -> Reader:
    if not frame.startswith(DATA_TPDU + tag, DATA_HEADER - len(DATA_TPDU)):
        raise WireError(f"sent something else than {what}")
    reader = Reader(frame, DATA_HEADER + len(tag), what=what)
    body = reader.part(_ber_length(reader), what)
    reader.done()
    return body


def parse_connect_initial(frame: bytes) -> ConnectInitial:
    """Read a Connect-Initial; raises WireError."""
    body = _connect(frame, _CONNECT_INITIAL, "a connect-initial")
    _ber_value(body, _OCTETS)  # callingDomainSelector and calledDomainSelector say nothing in RDP
    _ber_value(body, _OCTETS)
    _ber_value(body, _BOOLEAN)  # upwardFlag
    target, minimum, maximum = (_ber_parameters(body) for _ in range(3))
    user_data = _ber_value(body, _OCTETS).rest()
    body.done()
    return ConnectInitial(target, minimum, maximum, user_data)


def build_connect_initial(initial: ConnectInitial) -> bytes:
    """Write a Connect-Initial."""
    body = _to_octets(b"\1") * 2 + bytes((_BOOLEAN, 1, 0xFF))
    body += b"".join(map(_to_parameters, initial[:3])) + _to_octets(initial.user_data)
    return build_data_tpdu(_ber(_CONNECT_INITIAL, body))


def parse_connect_response(frame: bytes) -> ConnectResponse:
    """Read a Connect-Response; raises WireError."""
    body = _connect(frame, _CONNECT_RESPONSE, "a connect-response")
    result = _ber_integer(body, _ENUMERATED)
    _ber_integer(body)  # calledConnectId
    parameters = _ber_parameters(body)
    user_data = _ber_value(body, _OCTETS).rest()
    body.done()
    return ConnectResponse(result, parameters, user_data)


def build_connect_response(response: ConnectResponse) -> bytes:
    """Write a Connect-Response."""
    body = _to_integer(response.result, _ENUMERATED) + _to_integer(0)
    body += _to_parameters(response.parameters) + _to_octets(response.user_data)
    return build_data_tpdu(_ber(_CONNECT_RESPONSE, body))


# ---------------------------------------------------------------------------------------------- PER


def per_length(reader: Reader) -> int:
    """Take a PER length; raises WireError."""
    first = reader.u8()
    return (first & _PER_SHORT_MAX) << 8 | reader.u8() if first & _LONG_FORM else first


def to_per_length(size: int) -> bytes:
    """Write a PER length; raises WireError when no peer would read it."""
    if size > _PER_MAX:
        raise WireError("a message of ours is too long for MCS")
    return bytes((size,)) if size <= _PER_SHORT_MAX else u16_big(size | _PER_LONG)


_SEND_DATA: Final = Struct(">BHHBB")  # choice, initiator, channel, priority and segmentation, length
_CHOICE_SHIFT: Final = 2
_OPTION: Final = 0x02  # an optional field is there
_REQUEST: Final = Choice.SEND_DATA_REQUEST << _CHOICE_SHIFT
_INDICATION: Final = Choice.SEND_DATA_INDICATION << _CHOICE_SHIFT


def data_frame(frame: bytes) -> Data | None:
    """Read the frame of a Send Data message, None when it is another message; raises WireError.

    The hot path of slow-path traffic; `parse_message` tells what the other messages are.
    """
    if not frame.startswith(DATA_TPDU, DATA_HEADER - len(DATA_TPDU)) or len(frame) == DATA_HEADER:
        raise WireError("sent something else than data")
    if frame[DATA_HEADER] & ~0x03 not in {_REQUEST, _INDICATION}:
        return None
    behind = DATA_HEADER + _SEND_DATA.size
    if len(frame) < behind:
        raise WireError("a data message is cut short")
    _, initiator, channel, segmentation, length = _SEND_DATA.unpack_from(frame, DATA_HEADER)
    if length & _LONG_FORM:
        if len(frame) == behind:
            raise WireError("a data message is cut short")
        length = (length & _PER_SHORT_MAX) << 8 | frame[behind]
        behind += 1
    if length != len(frame) - behind:
        raise WireError("a data message has a wrong length")
    if segmentation & _WHOLE != _WHOLE:
        raise WireError("a data message is a part of one")
    return Data(initiator + USER_ID_BASE, channel, frame[behind:])


def build_data(data: Data, *, to_server: bool) -> bytes:
    """Write the frame of a Send Data Request to a server, or of a Send Data Indication to a client."""
    head = _REQUEST if to_server else _INDICATION
    size = to_per_length(len(data.payload))
    return build_data_tpdu(
        _SEND_DATA.pack(head, data.initiator - USER_ID_BASE, data.channel, _PRIORITY, size[0])
        + size[1:]
        + data.payload
    )


def redirect(frame: bytes, initiator: int, channel: int) -> bytes:
    """Give the same Send Data message for other ids: the two legs of a session may have counted differently."""
    at = DATA_HEADER + 1
    return frame[:at] + u16_big(initiator - USER_ID_BASE) + u16_big(channel) + frame[at + 4 :]


def parse_message(frame: bytes) -> Message:
    """Read any message of a conference that stands; raises WireError for those RDP has no use for."""
    if (data := data_frame(frame)) is not None:
        return data
    reader = Reader(frame, DATA_HEADER, what="a conference message")
    head = reader.u8()
    found = _parse(head, reader)
    reader.done()
    return found


def _parse(head: int, reader: Reader) -> Message:
    match head >> _CHOICE_SHIFT:
        case Choice.ERECT_DOMAIN_REQUEST:
            reader.rest()  # rdesktop writes its two numbers without their lengths
            return ErectDomainRequest()
        case Choice.ATTACH_USER_REQUEST:
            return AttachUserRequest()
        case Choice.ATTACH_USER_CONFIRM:
            return AttachUserConfirm(reader.u8(), _user(reader) if head & _OPTION else 0)
        case Choice.CHANNEL_JOIN_REQUEST:
            return ChannelJoinRequest(_user(reader), reader.u16_big())
        case Choice.CHANNEL_JOIN_CONFIRM:
            result, user, requested = reader.u8(), _user(reader), reader.u16_big()
            return ChannelJoinConfirm(result, user, requested, reader.u16_big() if head & _OPTION else 0)
        case Choice.DISCONNECT_PROVIDER_ULTIMATUM:
            return Disconnect((head & 0x03) << 1 | reader.u8() >> 7)
    raise WireError("sent a conference message that has no place in RDP")


def _user(reader: Reader) -> int:
    return reader.u16_big() + USER_ID_BASE


def build_message(message: Message) -> bytes:
    """Write any message of a conference but data, whose direction `build_data` must know."""
    match message:
        case ErectDomainRequest():
            return _message(Choice.ERECT_DOMAIN_REQUEST, b"\1\0\1\0")
        case AttachUserRequest():
            return _message(Choice.ATTACH_USER_REQUEST)
        case AttachUserConfirm(result, user):
            return _message(Choice.ATTACH_USER_CONFIRM, bytes((result,)) + _to_user(user), _OPTION)
        case ChannelJoinRequest(user, channel):
            return _message(Choice.CHANNEL_JOIN_REQUEST, _to_user(user) + u16_big(channel))
        case ChannelJoinConfirm(result, user, requested, channel):
            ids = _to_user(user) + u16_big(requested) + u16_big(channel)
            return _message(Choice.CHANNEL_JOIN_CONFIRM, bytes((result,)) + ids, _OPTION)
        case Disconnect(reason):
            return _message(Choice.DISCONNECT_PROVIDER_ULTIMATUM, bytes(((reason & 1) << 7,)), reason >> 1)
        case Data():
            raise TypeError("the frame of data is written by build_data")


def _to_user(user: int) -> bytes:
    return u16_big(user - USER_ID_BASE)


def _message(choice: Choice, body: bytes = b"", bits: int = 0) -> bytes:
    return build_data_tpdu(bytes((choice << _CHOICE_SHIFT | bits,)) + body)
