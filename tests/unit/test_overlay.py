"""A video drawn over: the pictures and times of the decoder, upright; the sound beside them where it was."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.errors import RejectedVideo
from pipeline.video.decode import Decoder
from pipeline.video.overlay import draw_over, overlay_size
from tests.faults import damaged, good
from tests.videos import draw, number_of, write

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

TICK = 1 / 90000
BEEP_SECONDS, BEEP_END_SECONDS = 1.0, 1.4  # on the clock of the pictures
FPS = 25
# One or two of each kind of file whose frames are easily got wrong: codecs, times, orientation, pixels, sizes.
KINDS = ["A21", "A25", "A26", "A27", "A28", "A31", "A32", "A33", "A34", "A35", "A38", "A40"]


def passed_over(rgb: np.ndarray, time_seconds: float) -> None:
    """Draws nothing."""


def frames_of(path: Path) -> tuple[list[float], list[np.ndarray], float]:
    """Times in seconds and RGB pictures of a file, and how long its pictures last."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        assert stream.duration is not None
        frames = list(container.decode(stream))
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        rgb = [frame.to_ndarray(format="rgb24") for frame in frames]
        return [float(frame.time or 0) for frame in frames], rgb, float(stream.duration * stream.time_base)


def write_with_beep(
    path: Path,
    codec: str,
    *,
    rate: int = 44100,
    layout: str = "stereo",
    sound_from: float = 0.0,
    pictures_from: float = 0.0,
) -> Path:
    """2 s of pictures, white while 2 s of sound, both from the times given, have a tone in them."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=FPS, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 96, 72, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 90000)
        audio: Any = container.add_stream(codec, rate=rate, layout=layout)
        seconds = np.arange(2 * rate) / rate + sound_from
        is_on = (seconds >= pictures_from + BEEP_SECONDS) & (seconds < pictures_from + BEEP_END_SECONDS)
        samples = np.where(is_on, 0.8 * np.sin(2 * np.pi * 1000 * seconds), 0).astype(np.float32)
        for number in range(2 * FPS):
            light = 255 if BEEP_SECONDS <= number / FPS < BEEP_END_SECONDS else 20
            frame = av.VideoFrame.from_ndarray(np.full((72, 96, 3), light, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round((pictures_from + number / FPS) * 90000), Fraction(1, 90000)
            container.mux(video.encode(frame))
        for start in range(0, len(samples), 1024):
            piece = np.tile(samples[start : start + 1024], (1 if layout == "mono" else 2, 1))
            sound = av.AudioFrame.from_ndarray(piece, "fltp", layout)
            sound.sample_rate, sound.pts, sound.time_base = rate, start + round(sound_from * rate), Fraction(1, rate)
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def onsets(path: Path) -> tuple[float, float, int, float, str]:
    """When the white begins and when the tone does; number of samples; the end of sound in seconds; its codec."""
    times, pictures, _ = frames_of(path)
    flash = next(time for time, picture in zip(times, pictures, strict=True) if picture.mean() > 128)
    tone, num_samples, end = -1.0, 0, 0.0
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        for frame in container.decode(stream):
            values = np.abs(frame.to_ndarray()[0])
            begin = float(frame.time or 0)
            if tone < 0 and (values > 0.2).any():
                tone = begin + int((values > 0.2).argmax()) / frame.sample_rate
            num_samples, end = num_samples + frame.samples, begin + frame.samples / frame.sample_rate
        return flash, tone, num_samples, end, stream.codec_context.name


@pytest.mark.parametrize(
    ("name", "codec", "options", "expected"),
    [
        ("a.mp4", "aac", {}, "aac"),
        ("a.mkv", "ac3", {}, "aac"),
        ("a.mov", "pcm_s16le", {"rate": 8000, "layout": "mono"}, "aac"),
        ("a.avi", "libmp3lame", {}, "mp3float"),
        ("low.avi", "libmp3lame", {"rate": 8000, "layout": "mono"}, "aac"),
        ("early.mp4", "aac", {"pictures_from": 0.7}, "aac"),
        ("early.mkv", "ac3", {"pictures_from": 0.7}, "aac"),
        ("late.mp4", "aac", {"sound_from": 0.5}, "aac"),
        ("late.ts", "mp2", {"sound_from": 100.5, "pictures_from": 100.0}, "aac"),
        ("early.ts", "aac", {"sound_from": 1000.0, "pictures_from": 1000.5}, "aac"),
    ],
)  # fmt: skip
def test_sound_stays_in_step(tmp_path: Path, name: str, codec: str, options: dict[str, Any], expected: str) -> None:
    """Sound from the beginning of the file, whatever its time stamps, is off by half a second in five of these."""
    path = write_with_beep(tmp_path / name, codec, **options)
    assert draw_over(path, tmp_path / "out.mp4", passed_over) == []
    flash, tone, num_samples, end, found = onsets(tmp_path / "out.mp4")
    assert flash == pytest.approx(BEEP_SECONDS, abs=TICK)
    # AVI has no time stamps of its own; decoder delays shift its sound by up to two packets.
    assert tone == pytest.approx(BEEP_SECONDS, abs=0.08 if name.endswith("avi") else 0.005)
    assert found == expected
    early = options.get("pictures_from", 0.0) - options.get("sound_from", 0.0)
    assert end == pytest.approx(2 - early, abs=0.1)
    assert frames_of(tmp_path / "out.mp4")[2] == pytest.approx(2, abs=0.08 if name.endswith("avi") else TICK)
    if name in ("a.mp4", "a.mkv", "a.mov"):
        rate = options.get("rate", 44100)
        assert num_samples == pytest.approx(2 * rate, abs=2048)  # whole packets


def test_copied_sound_is_copied(tmp_path: Path) -> None:
    path = write_with_beep(tmp_path / "a.mp4", "aac")
    draw_over(path, tmp_path / "out.mp4", passed_over)
    packets = []
    for file in (path, tmp_path / "out.mp4"):
        with av.open(str(file)) as container:
            packets.append([(p.pts, bytes(p)) for p in container.demux(audio=0) if p.size])
    assert packets[0] == packets[1]


def test_a_file_without_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 10)
    assert draw_over(path, tmp_path / "out.mp4", passed_over) == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams) == 1


def test_sound_that_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    path = write_with_beep(tmp_path / "a.mkv", "ac3")
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data) - 2):
        if data[at : at + 2] == b"\x0b\x77":  # every AC-3 frame begins with these
            data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    (note,) = draw_over(path, tmp_path / "out.mp4", passed_over)
    assert "packet(s) of sound cannot be decoded" in note
    assert len(frames_of(tmp_path / "out.mp4")[0]) == 2 * FPS


def test_sound_that_mp4_does_not_take_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.video.sound.LOWEST_MP3_RATE", 0)  # as if nobody knew
    path = write_with_beep(tmp_path / "a.avi", "libmp3lame", rate=8000, layout="mono")
    assert draw_over(path, tmp_path / "out.mp4", passed_over) == []
    assert onsets(tmp_path / "out.mp4")[-1] == "aac"


def test_what_is_drawn_is_there_and_the_rest_as_before(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 12, size=(96, 72), options={"qp": "4"})

    def mark(rgb: np.ndarray, time_seconds: float) -> None:
        rgb[48:64, 8 * round(time_seconds * FPS) : 8 * round(time_seconds * FPS) + 8] = 255

    draw_over(path, tmp_path / "out.mp4", mark)
    times, pictures, _ = frames_of(tmp_path / "out.mp4")
    np.testing.assert_allclose(times, np.arange(12) / FPS, atol=TICK)
    for number, picture in enumerate(pictures):
        expected = draw(number, 96, 72)
        mark(expected, number / FPS)
        assert (picture[50:62, 8 * number + 2 : 8 * number + 6] > 220).all()
        assert np.abs(picture.astype(int) - expected).mean() < 6


def test_a_turned_file_is_upright_and_nothing_says_to_turn_it_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 3, size=(96, 72), rotation_degrees=90)
    draw_over(path, tmp_path / "out.mp4", passed_over)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height, frame.rotation) for frame in frames] == [(96, 72, 0)] * 3
    assert np.abs(frames[1].to_ndarray(format="rgb24").astype(int) - draw(1, 96, 72)).mean() < 6


def test_sizes() -> None:
    assert overlay_size(1920, 1080) == (1280, 720)
    assert overlay_size(1080, 1920) == (720, 1280)
    assert overlay_size(95, 55) == (96, 56)
    assert overlay_size(1, 1) == (2, 2)
    assert overlay_size(16, 4096) == (6, 1280)
    assert overlay_size(720, 576, Fraction(16, 15)) == (768, 576)
    assert overlay_size(720, 576, Fraction(1, 1000)) == (720, 576)  # of a broken header


def sample(rows: Sequence[Any], ids: Sequence[str]) -> list[Any]:
    """The first two files of each of these kinds."""
    found = [[row for row in rows if row.id == id][:2] for id in ids]
    assert all(found)
    return [pytest.param(row, id=str(row)) for some in found for row in some]


@pytest.mark.parametrize("fault", [*sample(good.rows(), KINDS), *sample(damaged.rows(), ["A9", "A12", "A11"])])
def test_each_picture_of_the_decoder_at_its_time(tmp_path: Path, fault: Any) -> None:
    """Of odd and of damaged files too: as many pictures as the decoder gives, in order, where it says."""
    path = tmp_path / fault.name
    fault.make(path)
    expected = [frame.time_seconds for frame in Decoder(path)]
    draw_over(path, tmp_path / "out.mp4", passed_over)
    times, pictures, duration = frames_of(tmp_path / "out.mp4")
    np.testing.assert_allclose(times, expected, atol=len(expected) * TICK)
    assert duration > times[-1]
    if fault.numbers is not None and fault.status == "ok":
        assert [number_of(as_i420(picture)) for picture in pictures] == list(fault.numbers)


def as_i420(rgb: np.ndarray) -> np.ndarray:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return frame.reformat(format="yuv420p").to_ndarray()


def test_what_has_no_picture_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video\n")
    with pytest.raises(RejectedVideo, match="a text file, not a video"):
        draw_over(tmp_path / "a.mp4", tmp_path / "out.mp4", passed_over)
    assert not (tmp_path / "out.mp4").exists()
