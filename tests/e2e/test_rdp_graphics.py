"""Graphics, policy by policy: what recordings decode to is what the client's own screen showed, pixel by pixel.

FreeRDP 3 speaks all codecs; Debian 12's FreeRDP 2 has H.264 in its server and decodes the others to within one level.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from PIL import Image

from proxyd import cli_decoder, decoders
from proxyd.index.rdp import frames
from proxyd.index.rdp.gfx_codecs import Codec, Codecs
from proxyd.protocols.rdp import fastpath, mcs, share
from proxyd.protocols.rdp.graphics import Command, split
from proxyd.protocols.rdp.share import Compression, ControlKind
from proxyd.protocols.rdp.wire import is_fast_path
from proxyd.recorder.record import Kind, Record
from tests.e2e.desktops import ALICE, Front, account, front
from tests.e2e.test_rdp import SMALLER, corner
from tests.e2e.test_rdp_notices import shows
from tests.peers.process import Process, eventually
from tests.peers.rdp import freerdp, shadow, xrdp
from tests.peers.rdp.freerdp import XFREERDP, XFREERDP3, Client, RDesktop
from tests.peers.rdp.shadow import Security, Shadow
from tests.peers.rdp.x11 import IN_TERMINAL, TITLE, Picture, Screen, gradient, same, still
from tests.peers.rdp.xrdp import Xrdp

pytestmark = [
    pytest.mark.skipif(
        not (xrdp.INSTALLED and shadow.INSTALLED and freerdp.INSTALLED),
        reason="xrdp, FreeRDP's shadow server or xfreerdp is missing",
    ),
    pytest.mark.skipif(shutil.which("xwud") is None, reason="x11-apps is not installed"),
    pytest.mark.mission("M16"),
]

SHADOW3 = "freerdp-shadow-cli3"
HAVE_3 = freerdp.INSTALLED_3 and shutil.which(SHADOW3) is not None
need_3 = pytest.mark.skipif(not HAVE_3, reason="no FreeRDP 3 (xfreerdp3, freerdp-shadow-cli3) on PATH")
need_library_2 = pytest.mark.skipif(
    decoders.freerdp() is None, reason="the system has no libfreerdp (Debian 12: libfreerdp2-2)"
)
LIBRARY_2 = ""  # where the system has it
GRADIENT = (300, 200)
PLANAR = ("-gfx-progressive",)  # what is left of a FreeRDP 3 server's codecs then


def library_3() -> str:
    """Where the libraries of the FreeRDP 3 on PATH are."""
    return str(Path(shutil.which(XFREERDP3) or "").resolve().parent.parent / "lib")


@pytest.fixture(scope="module")
def desktop(shared: Path) -> Iterator[Xrdp]:
    with Xrdp(shared / "graphics-x") as made:
        yield made


@pytest.fixture(scope="module")
def targets(shared: Path, desktop: Xrdp) -> Iterator[dict[str, Xrdp | Shadow]]:
    """Desktops by the names of their targets."""
    here = shared / "graphics-s"
    with ExitStack() as stack:
        two = stack.enter_context(Shadow(here / "two", Security.TLS))
        made: dict[str, Xrdp | Shadow] = {
            "desk": desktop,
            "desk16": desktop,
            "desk-plain": desktop,
            "desk-gfx": desktop,
            "two": two,
            "two-bitmap": two,
        }
        if HAVE_3:
            three = stack.enter_context(Shadow(here / "three", program=SHADOW3))
            planar = stack.enter_context(Shadow(here / "planar", program=SHADOW3, options=PLANAR))
            made |= {"three": three, "three-avc420": three, "three-noavc": three, "planar": planar}
        yield made


POLICIES = {
    "desk": {},
    "desk16": {"colour_depth": 16},
    "desk-plain": {"bulk_compression": False},
    "desk-gfx": {"graphics": "gfx"},
    "two": {"graphics": "gfx"},
    "two-bitmap": {},
    "three": {"graphics": "gfx"},
    "three-avc420": {"graphics": "avc420"},
    "three-noavc": {"graphics": "noavc"},
    "planar": {"graphics": "noavc"},
}


@pytest.fixture(scope="module")
def rig(shared: Path, targets: dict[str, Xrdp | Shadow]) -> Iterator[Front]:
    directory = shared / "graphics"
    directory.mkdir()
    configured = {name: {**account(directory, name, one), **POLICIES[name]} for name, one in targets.items()}
    with front(directory, configured) as made:
        yield made


def begun(client: Client) -> Picture:
    """Wait until the desktop is there; gives it."""
    eventually("the desktop is shown", lambda: client.screen.picture().colours >= 3, within_s=60)
    return still(client.screen)


@contextmanager
def coloured(target: Screen, directory: Path) -> Iterator[None]:
    """Show many colours on a desktop."""
    path = directory / "gradient.xwd"
    gradient(path, *GRADIENT)
    argv = ["xwud", "-in", str(path), "-geometry", "+560+380"]
    with Process(argv, log=directory / "xwud.log", env=target.env):
        eventually("the gradient is shown", lambda: target.windows("^xwud"), within_s=30)
        yield


def worked(client: Client, target: Screen) -> Picture:
    """Text, and a window dragged over many colours; gives what the client shows in the end."""
    target.click(*IN_TERMINAL)
    target.enter("clear; seq 300")
    (terminal,) = target.windows(f"^{TITLE}$")
    for step in range(12):
        target.drag(terminal, 20 + step * 9, 20 + step * 13)
    target.drag(terminal, 20, 20)
    shown = still(client.screen)
    assert shown.colours > 100
    return shown


def recorded(rig: Front, session: str) -> list[Record]:
    rig.proxyd.ended(session)
    return list(rig.proxyd.recording(session).records())


def decoded(records: Sequence[Record], library: str, monkeypatch: pytest.MonkeyPatch) -> Picture:
    """What a recording shows in the end, by one of the libraries, in the process that does it for `proxyctl`."""
    monkeypatch.setenv("LD_LIBRARY_PATH", library)
    drawn = cli_decoder.draw(records)
    assert drawn.faults == 0
    image = Image.open(io.BytesIO(drawn.png))
    return Picture(*image.size, image.convert("RGB").tobytes())


def codecs_of(records: Sequence[Record]) -> set[int]:
    """By which codecs the pipeline painted; empty when there was none."""
    outputs, codecs, found = frames.Outputs(), Codecs(), set()
    for record in records:
        if frames.is_session(record):
            outputs.dynamic = frames.dynamic_channel(record)
        for event in outputs.feed(record.body) if record.kind is Kind.PDU else ():
            if isinstance(event, frames.Graphics):
                for pdu in split(codecs.decompress(event.message)):
                    if pdu.command in {Command.WIRETOSURFACE_1, Command.WIRETOSURFACE_2}:
                        found.add(int.from_bytes(pdu.body[2:4], "little"))
    return found


def surface_bits(records: Sequence[Record]) -> int:
    """How many bitmaps came by surface commands, all of them with a codec."""
    outputs, found = frames.Outputs(), 0
    for record in records:
        for event in outputs.feed(record.body) if record.kind is Kind.PDU else ():
            if isinstance(event, frames.Surfaces):
                assert all(one.codec for one in event.bits)
                found += len(event.bits)
    return found


def compressed(records: Sequence[Record]) -> int:
    """How many updates came by MPPC."""
    found = 0
    for record in records:
        if record.kind is not Kind.PDU:
            continue
        for frame in frames.split(record.body):
            if is_fast_path(frame):
                found += sum(
                    bool(one.compression & Compression.COMPRESSED) for one in fastpath.parse_output(frame)
                )
            elif (
                (data := mcs.data_frame(frame))
                and data.channel == mcs.GLOBAL_CHANNEL
                and data.payload[0] != 0x80
            ):
                found += sum(
                    bool(share.share_data(one).compression & Compression.COMPRESSED)
                    for one in share.split(data.payload)
                    if one.kind == ControlKind.DATA
                )
    return found


@need_3
@pytest.mark.parametrize(
    ("name", "options", "codec"),
    [
        ("three", ("/gfx:AVC444",), Codec.AVC444_V2),
        ("three-avc420", ("/gfx:AVC420",), Codec.AVC420),
        ("three-noavc", ("/gfx",), Codec.CAPROGRESSIVE),
        ("planar", ("/gfx",), Codec.PLANAR),
    ],
)
def test_by_the_pipeline_of_freerdp_3(
    rig: Front, targets: dict[str, Xrdp | Shadow], short: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, options: tuple[str, ...], codec: Codec,
) -> None:  # fmt: skip
    with (
        ExitStack() as stack,
        rig.client(short / "c", f"alice%{name}", ALICE, program=XFREERDP3, options=options) as client,
    ):
        begun(client)
        session = rig.proxyd.the_live_session()["id"]
        stack.enter_context(coloured(targets[name].screen, short))
        shown = worked(client, targets[name].screen)
        if codec is Codec.PLANAR:
            same(client.screen, targets[name].screen)
    records = recorded(rig, session)
    assert codecs_of(records) == {codec}
    assert shown.differing(decoded(records, library_3(), monkeypatch)) == 0
    if decoders.freerdp() is not None and codec is not Codec.AVC444_V2:
        assert shown.farthest(decoded(records, LIBRARY_2, monkeypatch)) <= 1


@need_3
def test_by_remotefx_in_the_pipeline(
    rig: Front, targets: dict[str, Xrdp | Shadow], short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client says that it knows RemoteFX outside of the pipeline: FreeRDP's server asks that before it uses it inside."""
    options = ("/gfx:RFX", "/rfx")
    client = rig.client(short / "c", "alice%three-noavc", ALICE, program=XFREERDP3, options=options)
    with ExitStack() as stack, client:
        begun(client)
        session = rig.proxyd.the_live_session()["id"]
        stack.enter_context(coloured(targets["three-noavc"].screen, short))
        shown = worked(client, targets["three-noavc"].screen)
    records = recorded(rig, session)
    assert codecs_of(records) == {Codec.CAVIDEO}
    assert not surface_bits(records)
    assert shown.differing(decoded(records, library_3(), monkeypatch)) == 0


@need_library_2
@pytest.mark.parametrize("name", ["two", pytest.param("desk-gfx", marks=pytest.mark.slow)])
def test_by_surface_commands_of_remotefx(
    rig: Front, targets: dict[str, Xrdp | Shadow], short: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with (
        ExitStack() as stack,
        rig.client(short / "c", f"alice%{name}", ALICE, options=("/rfx",)) as client,
    ):
        begun(client)
        session = rig.proxyd.the_live_session()["id"]
        stack.enter_context(coloured(targets[name].screen, short))
        shown = worked(client, targets[name].screen)
    records = recorded(rig, session)
    assert not codecs_of(records)
    assert surface_bits(records)
    assert shown.differing(decoded(records, LIBRARY_2, monkeypatch)) == 0


@need_library_2
def test_by_the_pipeline_of_freerdp_2(
    rig: Front, targets: dict[str, Xrdp | Shadow], short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        ExitStack() as stack,
        rig.client(short / "c", "alice%two", ALICE, program=XFREERDP, options=("/gfx:AVC444",)) as client,
    ):
        begun(client)
        session = rig.proxyd.the_live_session()["id"]
        stack.enter_context(coloured(targets["two"].screen, short))
        shown = worked(client, targets["two"].screen)
    records = recorded(rig, session)
    assert codecs_of(records) <= {Codec.AVC444, Codec.AVC444_V2}
    assert codecs_of(records)
    assert shown.differing(decoded(records, LIBRARY_2, monkeypatch)) == 0


@pytest.mark.parametrize("name", ["desk", "desk-plain", "two-bitmap"])
def test_by_bitmaps_of_32_bits(
    rig: Front, targets: dict[str, Xrdp | Shadow], short: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with (
        ExitStack() as stack,
        rig.client(short / "c", f"alice%{name}", ALICE, options=("/gfx:AVC444", "+compression")) as client,
    ):
        begun(client)
        session = rig.proxyd.the_live_session()["id"]
        stack.enter_context(coloured(targets[name].screen, short))
        shown = worked(client, targets[name].screen)
        same(client.screen, targets[name].screen)
    records = recorded(rig, session)
    assert not codecs_of(records)
    assert bool(compressed(records)) is (name != "desk-plain")
    assert shown.differing(decoded(records, LIBRARY_2, monkeypatch)) == 0


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(
            "rdesktop",
            marks=pytest.mark.skipif(not freerdp.RDESKTOP_INSTALLED, reason="rdesktop is not installed"),
        ),
        XFREERDP,
    ],
)
def test_by_bitmaps_of_16_bits(
    rig: Front, targets: dict[str, Xrdp | Shadow], short: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """xfreerdp has a way of its own to make eight bits of green out of six; the sixteen that came are the same."""
    client: Client = rig.client(short / "c", "alice%desk16", ALICE, options=("+compression",))
    if program == "rdesktop":
        client = RDesktop(short / "c", rig.port, "alice%desk16", ALICE, options=("-z",))
    with ExitStack() as stack, client:
        begun(client)
        session = rig.proxyd.the_live_session()["id"]
        stack.enter_context(coloured(targets["desk16"].screen, short))
        shown = worked(client, targets["desk16"].screen)
    records = recorded(rig, session)
    assert next(one.body["depth"] for one in records if frames.is_session(one)) == 16
    assert compressed(records)
    drawn = decoded(records, LIBRARY_2, monkeypatch)
    if program == "rdesktop":
        assert shown.differing(drawn) == 0
    else:
        assert one_for_each_level(drawn, shown)


def one_for_each_level(drawn: Picture, shown: Picture) -> bool:
    """Whether every level of a colour is shown as one level, at most four from it."""
    for at in range(3):
        pairs = set(zip(drawn.rgb[at::3], shown.rgb[at::3], strict=True))
        if len(pairs) != len(set(drawn.rgb[at::3])) or any(abs(left - right) > 4 for left, right in pairs):
            return False
    return True


@pytest.mark.mission("M3")
@pytest.mark.parametrize(
    ("name", "program", "options"),
    [
        pytest.param("three-noavc", XFREERDP3, ("/gfx",), marks=need_3),
        pytest.param("three", XFREERDP, ("/gfx:AVC444",), marks=need_3),
        pytest.param("two", XFREERDP, ("/gfx:AVC444",), marks=need_library_2),
    ],
)
def test_a_notice_stands_over_the_pipeline_and_goes_away(
    rig: Front,
    targets: dict[str, Xrdp | Shadow],
    short: Path,
    name: str,
    program: str,
    options: tuple[str, ...],
) -> None:
    screen = targets[name].screen
    with rig.client(short / "c", f"alice%{name}", ALICE, program=program, options=options) as client:
        before = begun(client)
        session = rig.proxyd.the_live_session()["id"]
        rig.proxyd.call("block", session=session)
        eventually("the notice is shown", lambda: shows(client.screen))
        screen.click(*IN_TERMINAL)
        screen.enter("clear; seq 500; clear")  # the target goes on painting where it stands
        eventually("the notice stands", lambda: shows(client.screen))
        assert still(client.screen) != before
        client.screen.enter("touch refused")
        rig.proxyd.call("unblock", whom=session)
        eventually("it goes away", lambda: not shows(client.screen), within_s=20)
        client.screen.click(*IN_TERMINAL)
        client.screen.enter("touch passed")
        eventually("input passes again", (targets[name].home / "passed").exists, within_s=30)
        assert not (targets[name].home / "refused").exists()
        (targets[name].home / "passed").unlink()
        assert client.connected
    assert rig.proxyd.ended(session)["reason"] == "closed"


@need_library_2
def test_without_a_library_to_decode_it_a_desktop_is_painted_by_bitmaps_and_that_is_said(
    targets: dict[str, Xrdp | Shadow], short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short / "python").mkdir()
    nothing = "import proxyd.decoders\nproxyd.decoders.NAMES = ()\n"  # as where none is installed
    (short / "python" / "sitecustomize.py").write_text(nothing)
    monkeypatch.setenv("PYTHONPATH", str(short / "python"))
    configured = account(short, "two", targets["two"]) | {"graphics": "gfx"}
    with front(short, {"two": configured}) as bare:
        assert "FreeRDP's library is not installed" in bare.proxyd.logs()
        with bare.client(short / "c", "alice%two", ALICE, options=("/gfx:AVC444",)) as client:
            begun(client)
            session = bare.proxyd.the_live_session()["id"]
            shown = same(client.screen, targets["two"].screen)
        records = recorded(bare, session)
    monkeypatch.delenv("PYTHONPATH")
    assert next(one.body["graphics"] for one in records if frames.is_session(one)) == "bitmap"
    assert not codecs_of(records)
    assert shown.differing(decoded(records, LIBRARY_2, monkeypatch)) == 0


@need_library_2
def test_a_change_of_size_is_followed_where_the_pipeline_is_allowed(
    rig: Front, desktop: Xrdp, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of this file: the desktop stays so."""
    options = ("/dynamic-resolution", "/gfx:AVC444")
    with rig.client(short / "c", "alice%desk-gfx", ALICE, options=options) as client:
        begun(client)
        session = rig.proxyd.the_live_session()["id"]
        client.screen.resize(client.screen.windows("FreeRDP")[0], *SMALLER)
        eventually("the desktop has the size", lambda: desktop.screen.picture()[:2] == SMALLER, within_s=40)

        def alike() -> Picture | None:
            target = desktop.screen.picture()
            return target if corner(client.screen.picture(), *SMALLER) == target.rgb else None

        shown = eventually("the client shows it", alike, within_s=40)
        assert shown is not None
    assert shown.differing(decoded(recorded(rig, session), LIBRARY_2, monkeypatch)) == 0
