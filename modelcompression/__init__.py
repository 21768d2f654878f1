"""ModelCompression: one instrument for five homeworks on compressing YOLOv8n."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "PredelinaAsya/ModelCompression"
BRANCH = "main"

# Read by ultralytics at import: keep its settings inside the repository, never send analytics,
# never let it pip-install behind the user's back.
os.environ.setdefault("YOLO_CONFIG_DIR", str(ROOT / ".cache"))
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
