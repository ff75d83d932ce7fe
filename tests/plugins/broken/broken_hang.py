"""Never comes up, and has a process of its own."""

import subprocess
import time

subprocess.Popen(["sleep", "600"])
time.sleep(600)
