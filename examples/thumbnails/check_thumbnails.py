"""Every picture has its thumbnails, of the right size and colour."""

from pathlib import Path

from PIL import Image

for number in range(12):
    for size in (64, 128):
        with Image.open(f"pictures/p{number:02}.{size}.webp") as small:
            height = round(size * (400 + number * 20) / 640)
            assert small.width == size, small.size
            assert abs(small.height - height) <= 1, small.size
            pixel = small.convert("RGB").getpixel((size // 2, size // 4))
            assert isinstance(pixel, tuple)
            red, green, blue = pixel
            assert max(abs(red - number * 20), abs(green - 90), abs(blue - 160)) < 8, (red, green, blue)
left = sorted(path.name for path in Path("pictures").iterdir() if path.suffix not in (".png", ".webp"))
assert not left, left
print("24 thumbnails")
