"""`compile.py FOLDER`: byte code for every module, checked against nothing at run time: the image never changes."""

import compileall
import py_compile
import sys

compileall.compile_dir(
    sys.argv[1], quiet=2, force=True, workers=0, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
)
