"""The state in letters three rows high: a small font of square pixels, two of them one above the other in a cell."""

from __future__ import annotations

ROWS = 3

# Five rows of pixels a letter, top to bottom.
_FONT = {
    "A": "#### #..# #### #..# #..#",
    "C": "#### #... #... #... ####",
    "D": "###. #..# #..# #..# ###.",
    "E": "#### #... ###. #... ####",
    "G": "#### #... #.## #..# ####",
    "I": "# # # # #",
    "N": "#..# ##.# #.## #..# #..#",
    "O": "#### #..# #..# #..# ####",
    "R": "###. #..# ###. #.#. #..#",
    "S": "#### #... #### ...# ####",
    "T": "##### ..#.. ..#.. ..#.. ..#..",
    "W": "#...# #...# #.#.# ##.## #...#",
    " ": ".. .. .. .. ..",
}

_CELLS = {"..": " ", "#.": "▀", ".#": "▄", "##": "█"}


def big(word: str) -> str:
    """A word of capitals as `ROWS` lines of equal width."""
    letters = [_FONT[letter].split() for letter in word]
    pixels = [".".join(letter[row] for letter in letters) for row in range(5)]
    pixels.append("." * len(pixels[0]))
    pairs = zip(pixels[::2], pixels[1::2], strict=True)
    return "\n".join("".join(_CELLS[above + below] for above, below in zip(*pair, strict=True)) for pair in pairs)
