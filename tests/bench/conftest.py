"""Makes ``benchmarks`` importable: last on the path, so that an installed pyloop is preferred."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent.parent))
