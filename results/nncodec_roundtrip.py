"""Weights through NNCodec and back, in an environment of its own (numpy below 2): :mod:`measure_nncodec`
runs this there.

python nncodec_roundtrip.py FOLDER QP…

Reads FOLDER/weights.npz. Writes FOLDER/QP.npz, what the decoder gives back, for each quantization parameter,
and FOLDER/bytes.json: QP → bytes of the bitstream. (NNCodec itself prints what it likes.)
"""

import json
import sys
from pathlib import Path

import numpy as np
from nncodec.nn import decode, encode


def main() -> None:
    folder, parameters = Path(sys.argv[1]), sys.argv[2:]
    weights = dict(np.load(folder / "weights.npz"))
    sizes = {}
    for qp in parameters:
        stream = encode(weights, args={"qp": int(qp), "verbose": False, "results": str(folder)})
        np.savez(folder / f"{qp}.npz", **decode(stream))
        sizes[qp] = len(stream)
    (folder / "bytes.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main()
