"""A channel of a session by itself: messages in, what passes, what is answered, what is told."""

from proxyd.config import Clipboard, Devices
from proxyd.protocols.rdp import channels, mcs
from proxyd.protocols.rdp.crossing import FIRST_CHANNEL
from proxyd.protocols.rdp.static import USER, Policy, StaticChannels
from proxyd.recorder.record import Kind
from tests.peers.process import eventually


class Channel:
    """One static channel under a policy; each side's messages go through whole, or in chunks of `size`."""

    def __init__(self, name, policy=None, size=channels.CHUNK):
        self.told = []
        self.static = StaticChannels(
            policy or Policy(), lambda kind, body: self.told.append((kind, body)), lambda call: call()
        )
        self.name, self.size = name, size
        self.refused = []

    def chunks(self, message, *, to_server):
        for payload in channels.build_chunks(message, channels.ChannelFlag.SHOW_PROTOCOL, self.size):
            data = mcs.Data(USER if to_server else mcs.SERVER_USER, FIRST_CHANNEL, payload)
            yield mcs.build_data(data, to_server=to_server), data

    def up(self, message, *, closed=False):
        """What of a client's message reaches the target."""
        out = []
        for frame, data in self.chunks(message, to_server=True):
            passed, refused = self.static.from_client(frame, data, self.name, closed=closed)
            out += passed
            self.refused += refused
        return content(out)

    def down(self, message, *, closed=False):
        """What of a target's message reaches the client."""
        out = []
        for frame, data in self.chunks(message, to_server=False):
            out += self.static.from_target(frame, data, self.name, closed=closed)
        return content(out)

    def to_client(self):
        """What the client was told by us since the last time."""
        frames = self.static.to_client[:]
        self.static.to_client.clear()
        return content(frames)

    def to_target(self):
        """What the target was told by us."""
        frames = self.static.to_target[:]
        self.static.to_target.clear()
        return content(frames)

    def settled(self, kind=None):
        """What was told in all, hashes too."""
        done = []
        self.static.ledger.settle(lambda: done.append(True))
        eventually("the hashes are there", lambda: done)
        return [body for found, body in self.told if kind in (None, found)]

    def transfers(self):
        return [
            (one["operation"], one["path"], one["size"], one["sha256"], one["result"])
            for one in self.settled(Kind.TRANSFER)
        ]


def content(frames):
    """The content of frames of a channel, which must be whole messages, one after the other."""
    found = b""
    gathering = channels.Reassembly(1 << 24)
    for frame in frames:
        message = gathering.feed(mcs.data_frame(frame).payload)
        if message is not None:
            found += message.data
    assert gathering.held == 0
    return found


def policy(**rules):
    """A policy; `devices` and each way of the clipboard as the configuration's structs have them."""
    found = Policy(devices=rules.pop("devices", Devices()))
    return found._replace(clipboard=Clipboard(**rules)) if rules else found
