import pytest

from proxyd.protocols.rdp import sound
from proxyd.protocols.rdp.sound import SoundType, Wave, Waves
from proxyd.protocols.rdp.wire import WireError
from tests.fuzz import seeds_rdp as seeds

pytestmark = pytest.mark.mission("M16")


def test_formats_are_read_and_written():
    formats = sound.parse_formats(seeds.SOUND_FORMATS)
    assert formats.version == 6
    assert [(one.tag, one.channels, one.rate, one.bits) for one in formats.formats] == [
        (1, 2, 44100, 16),
        (1, 2, 22050, 16),
        (0x69, 2, 44100, 16),
    ]
    assert sound.build_formats(formats) == seeds.SOUND_FORMATS


def test_only_pcm_is_offered():
    filtered = sound.pcm_only(seeds.SOUND_FORMATS)
    assert [one.tag for one in sound.parse_formats(filtered).formats] == [1, 1]
    assert sound.pcm_only(filtered) is filtered


def test_sound_by_udp_is_not_wanted():
    formats = sound.parse_formats(seeds.SOUND_FORMATS)._replace(port=0x3412)
    filtered = sound.parse_formats(sound.pcm_only(sound.build_formats(formats)))
    assert filtered.port == 0


def test_data_of_a_format_stays():
    odd = sound.AudioFormat(1, 1, 8000, 16000, 2, 16, b"extra")
    formats = sound.parse_formats(seeds.SOUND_FORMATS)._replace(formats=(odd,))
    assert sound.parse_formats(sound.build_formats(formats)).formats == (odd,)


def test_wave_of_two_messages():
    waves = Waves()
    assert waves.feed(seeds.SOUND_WAVE[0]) is None
    assert waves.feed(seeds.SOUND_WAVE[1]) == Wave(0x0302, 1, 7, b"abcdefghijklmnop")
    assert waves.feed(seeds.SOUND_WAVE2) == Wave(0x0302, 1, 7, b"wave", 42)


def test_other_messages_are_no_waves():
    waves = Waves()
    assert waves.feed(seeds.SOUND_FORMATS) is None
    assert waves.feed(bytes((SoundType.CLOSE, 0, 0, 0))) is None


def test_wrong_waves_are_refused_and_forgotten():
    waves = Waves()
    waves.feed(seeds.SOUND_WAVE[0])
    with pytest.raises(WireError):
        waves.feed(seeds.SOUND_WAVE[1][:-1])
    assert waves.feed(seeds.SOUND_WAVE2).data == b"wave"
    for wrong in (
        b"",
        seeds.SOUND_WAVE[0][:-1],
        seeds.SOUND_WAVE[0] + b"x",
        b"\2\0\x0b\0" + bytes(12),
        seeds.SOUND_WAVE2[:-1],
        b"\x0d\0\x0b\0" + bytes(11),
    ):
        with pytest.raises(WireError):
            waves.feed(wrong)


def test_formats_cut_anywhere_are_refused():
    for end in range(len(seeds.SOUND_FORMATS)):
        with pytest.raises(WireError):
            sound.parse_formats(seeds.SOUND_FORMATS[:end])
    with pytest.raises(WireError):
        sound.parse_formats(seeds.SOUND_WAVE2)
    with pytest.raises(WireError):
        sound.parse_formats(b"\7\0\x14\0" + bytes(14) + b"\xff\xff" + bytes(4))
