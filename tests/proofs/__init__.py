"""What cloudq promises, put to the proof: `python -m proofs`, or `make prove`.

Each part is one promise with a size: `full` as recorded in docs/proof, `sample` as run by `make test`. Both run the same code.
A part that is about a provider takes its URL, so that every adapter is put through the same.
"""
