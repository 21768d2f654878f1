"""How few bytes does a whole detector need? The packed checkpoint, ``.mcpk``.

* :func:`.checkpoint.save` and :func:`.checkpoint.load`: a network to a file and back;
* :func:`.checkpoint.to_openvino`: the INT8 graph inside, ready to run;
* :mod:`.container` describes the format.
"""
