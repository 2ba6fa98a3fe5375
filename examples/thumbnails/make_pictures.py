"""Twelve pictures, and a file that only calls itself one."""

from pathlib import Path

from PIL import Image

if __name__ == "__main__":
    Path("pictures").mkdir(exist_ok=True)
    for number in range(12):
        Image.new("RGB", (640, 400 + number * 20), (number * 20, 90, 160)).save(f"pictures/p{number:02}.png")
    Path("pictures/broken.png").write_bytes(b"not a picture")
