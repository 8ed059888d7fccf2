"""Print the oldest version of each dependency that setup.cfg allows, as constraints for pip: `make test-oldest`."""

import configparser
import re
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
for line in config["options"]["install_requires"].split("\n"):
    if line.strip():
        print(re.sub(r"\s*>=\s*([^,\s]+).*", r"==\1", line.strip()))
