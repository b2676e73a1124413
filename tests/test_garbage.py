import gc
import subprocess
import sys

import pytest

from fednnunet.garbage import importing


def test_garbage_is_not_looked_for_while_modules_are_imported_and_is_afterwards():
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        new = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(new)
    gc.unfreeze()


def test_garbage_is_looked_for_again_after_an_import_that_fails():
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()


def test_what_has_to_be_done_at_the_end_of_a_process_is_done():
    code = (
        "import atexit, gc\n"
        "from fednnunet.cli.commands import main\n"
        "atexit.register(lambda: print('handler ran', gc.get_freeze_count() == 0))\n"
        "main(['audit', 'show', 'nothing.jsonl'])\n"
        "atexit.register(lambda: print('another ran', gc.get_freeze_count() == 0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["another ran True", "handler ran False"]
