"""Asks a program about its license: python3 licensed.py /usr/bin/inkwell"""
import json
import subprocess
import sys


def license_of(program):
    """Returns the status, and whether the program may run: exit code 0."""
    done = subprocess.run([program, "status", "--json"], capture_output=True, text=True, timeout=60)
    return json.loads(done.stdout), done.returncode == 0


if __name__ == "__main__":
    status, may_run = license_of(sys.argv[1])
    if may_run and "export" in status["features"]:
        print("export is unlocked")
    else:
        print(status.get("message") or status["error"]["message"])
        sys.exit(1)
