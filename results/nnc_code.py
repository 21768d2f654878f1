"""Weights through NNCodec and back, in an environment of its own (numpy below 2): :mod:`nnc` runs this there.

python nnc_code.py FOLDER QP…

Reads FOLDER/weights.npz; writes FOLDER/QP.npz, what the decoder gives back, and prints one line for each
quantization parameter: QP and the bytes of the bitstream.
"""

import sys
from pathlib import Path

import numpy as np
from nncodec.nn import decode, encode


def main() -> None:
    folder, parameters = Path(sys.argv[1]), sys.argv[2:]
    weights = dict(np.load(folder / "weights.npz"))
    for qp in parameters:
        stream = encode(weights, args={"qp": int(qp), "verbose": False, "results": str(folder)})
        np.savez(folder / f"{qp}.npz", **decode(stream))
        print(qp, len(stream), flush=True)


if __name__ == "__main__":
    main()
