"""Inkwell is a program in Python that is sold by license key.

    go build -tags embed -buildmode=c-shared -o libpolargate.so ./examples/embed
    python3 examples/embed/python/inkwell.py ./libpolargate.so CONFIG KEY

CONFIG is the JSON that polargate.h describes. Use multiprocessing with its start method
"spawn": after a fork, the library answers nothing.
"""

import ctypes
import json
import os
import sys
import threading

OK, FORKED = 0, 71


class Failed(Exception):
    """A call that didn't succeed: its code, and a message for the user."""

    def __init__(self, code, message):
        super().__init__(f"{code} {message}")
        self.code, self.message = code, message


class Gate:
    """The license of this program on this computer. Use it from any thread."""

    def __init__(self, library, **config):
        self._lib = lib = ctypes.CDLL(library)
        number, text, messages = ctypes.c_int64, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)
        # Texts that the library returns are c_void_p: with c_char_p, Python would copy the
        # text and lose the pointer that polargate_free needs.
        for name, *types in (
            ("open", text, ctypes.POINTER(number), messages),
            ("close", number),
            ("check", number, ctypes.c_int, messages),
            ("activate", number, text, ctypes.c_int, messages),
            ("deactivate", number, ctypes.c_int, messages),
            ("consume", number, number, ctypes.c_int, ctypes.POINTER(number), messages),
            ("has", number, text),
            ("status", number),
            ("free", ctypes.c_void_p),
        ):
            getattr(lib, "polargate_" + name).argtypes = types
        lib.polargate_status.restype = ctypes.c_void_p
        lib.polargate_free.restype = None
        self._gate = number()
        self._call(lib.polargate_open, json.dumps(config).encode(), ctypes.byref(self._gate))

    def _text(self, pointer):
        if not pointer:
            return None
        try:
            return ctypes.string_at(pointer).decode()
        finally:
            self._lib.polargate_free(pointer)

    def _call(self, function, *arguments):
        message = ctypes.c_void_p()
        code = function(*arguments, ctypes.byref(message))
        said = self._text(message.value)
        if code != OK:
            raise Failed(code, said)

    def check(self, timeout_ms=5000):
        self._call(self._lib.polargate_check, self._gate, timeout_ms)

    def activate(self, key, timeout_ms=30000):
        self._call(self._lib.polargate_activate, self._gate, key.encode(), timeout_ms)

    def deactivate(self, timeout_ms=30000):
        self._call(self._lib.polargate_deactivate, self._gate, timeout_ms)

    def consume(self, n, timeout_ms=30000):
        left = ctypes.c_int64()
        self._call(self._lib.polargate_consume, self._gate, n, timeout_ms, ctypes.byref(left))
        return None if left.value < 0 else left.value

    def has(self, feature):
        return bool(self._lib.polargate_has(self._gate, feature.encode()))

    def status(self):
        text = self._text(self._lib.polargate_status(self._gate))
        return json.loads(text) if text else None

    def close(self):
        self._lib.polargate_close(self._gate)


def main(library, config, key):
    gate = Gate(library, **json.loads(config))
    print("before:", gate.status()["state"])
    try:
        gate.activate("NO-SUCH-KEY")
    except Failed as refused:
        print("wrong key:", refused)
    gate.activate(key)
    gate.check()

    granted = []
    threads = [threading.Thread(target=lambda: granted.append(all(gate.has("export") for _ in range(1000)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("threads:", all(granted) and len(granted) == 8)
    print("other feature:", gate.has("paint"))
    print("left:", gate.consume(4))

    sys.stdout.flush()
    child = os.fork() if hasattr(os, "fork") else None
    if child == 0:
        try:
            gate.check()
        except Failed as refused:
            os._exit(0 if refused.code == FORKED and not gate.has("export") and gate.status() is None else 1)
        os._exit(1)
    if child is not None:
        print("forked:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    gate.deactivate()
    print("after:", gate.status()["state"])
    gate.close()
    print("closed:", gate.status())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(64)
    main(*sys.argv[1:])
