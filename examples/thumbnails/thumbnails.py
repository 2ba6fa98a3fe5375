"""Thumbnails of pictures: one task for each picture and size.

    python thumbnails.py pictures/*.png

Work that computes, in Pillow's own code and so beside Python: threads are enough for a core or two, processes for more. A
picture that cannot be read will not be readable later either: it is rejected, and kept among the dead letters with the reason.
"""

import sys
from pathlib import Path

from PIL import Image

from cloudq import CloudQ, Context, Reject

app = CloudQ()
SIZES = (64, 128)


@app.task(timeout="1m")
def shrink(ctx: Context, name: str, size: int) -> None:
    """Write the thumbnail of a picture beside it, no wider and no higher than so many pixels."""
    source = Path(name)
    try:
        with Image.open(source) as picture:
            picture.thumbnail((size, size))
            small = picture.convert("RGB")
    except OSError as error:  # also Pillow's own, for what is no picture, or half of one
        raise Reject(f"{source}: {error}") from error
    target = source.with_name(f"{source.stem}.{size}.webp")
    # Under a name of this run first: nobody sees half a picture.
    beside = target.with_suffix(f".{ctx.task_id}-{ctx.attempt}")
    small.save(beside, "WEBP")
    beside.rename(target)


if __name__ == "__main__":
    count = app.enqueue_many(shrink.message(name, size) for name in sys.argv[1:] for size in SIZES)
    print(f"{count} thumbnails are queued")
