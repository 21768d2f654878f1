"""How good is a detector, how fast, how big, and how sure are we? This room knows no method of compression.

* :func:`.accuracy.evaluate`: precision, recall and mAP of any detector on a set of images;
* :func:`.intervals.paired_bootstrap`: a change of mAP between two evaluations, with its interval;
* :func:`.latency.time_pairs`: how many times faster, two detectors in turn (from JPEG to boxes: `pipeline`);
* :func:`.footprint.size_mb`: bytes of the files that one would ship.
"""
