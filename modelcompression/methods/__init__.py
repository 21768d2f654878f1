"""How does a network become smaller or faster? One module a method; none of them logs or measures rows.

* :func:`.sensitivity.collect`: what an error of each weight costs the detections, for all that follow;
* :func:`.rounding.feedback`, :func:`.pruning.prune`, :class:`.channels.Narrowing`: bits, zeros, channels;
* :func:`.quantization.int8` and :func:`.lean.lean`: a faster graph for OpenVINO;
* :func:`.healing.heal`: training that mends what compression broke, measured by :func:`.distance.distance`.
"""
