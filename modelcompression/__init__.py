"""ModelCompression: one instrument for all homeworks on compressing YOLOv8n."""

import os
import sys
import warnings
from pathlib import Path

# Installed, not in a clone: what is fetched and logged is in the user's folder, not among Python's packages.
_CLONE = Path(__file__).resolve().parents[1]
ROOT = _CLONE if (_CLONE / "pyproject.toml").is_file() else Path.home() / ".modelcompression"
REPOSITORY = "PredelinaAsya/ModelCompression"
BRANCH = "main"
__version__ = "0.1.0"

# Read by the libraries when they are imported. Ultralytics keeps its settings inside the repository and
# never pip-installs behind the user's back; none of them sends usage data.
os.environ.setdefault("YOLO_CONFIG_DIR", str(ROOT / ".cache"))
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
sys.modules.setdefault("openvino_telemetry", None)  # its documented opt-out is a file in the home folder

# Libraries that ask tqdm for a widget get its text bar where ipywidgets is missing; no need to complain.
warnings.filterwarnings("ignore", message="IProgress not found")
