import numpy as np
import pytest
from PIL import Image

from memrl.rendering import CAPTION_HEIGHT, save_gif

FRAMES = [np.full((32, 48, 3), shade, np.uint8) for shade in (0, 100, 200)]


def test_gif_holds_the_frames(tmp_path):
    path = save_gif(tmp_path / "new folder" / "trial.gif", FRAMES, frames_per_second=20)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (3, (48, 32), 50, 0)
        for index, frame in enumerate(FRAMES):
            gif.seek(index)
            np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), frame)
    assert list(path.parent.iterdir()) == [path]


def test_captions_are_below_the_frames(tmp_path):
    path = save_gif(tmp_path / "trial.gif", FRAMES[:2], captions=["step 1", ""])
    with Image.open(path) as gif:
        assert gif.size == (48, 32 + CAPTION_HEIGHT)
        with_text = np.asarray(gif.convert("L"))
        gif.seek(1)
        without_text = np.asarray(gif.convert("L"))
    assert (with_text[:32] == 0).all() and (with_text[32:] < 100).any()
    assert (without_text[:32] == 100).all() and (without_text[32:] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": []}, "no frames"),
        ({"frames": FRAMES, "captions": ["one"]}, "1 captions for 3 frames"),
        ({"frames": FRAMES, "frames_per_second": 60}, "frames_per_second is 60, but must be above 0 and at most 50"),
        ({"frames": FRAMES, "frames_per_second": 0}, "frames_per_second is 0"),
    ],
)
def test_bad_input_leaves_the_old_file(tmp_path, arguments, message):
    path = tmp_path / "trial.gif"
    path.write_text("old")
    with pytest.raises(ValueError, match=message):
        save_gif(path, **arguments)
    assert path.read_text() == "old"
