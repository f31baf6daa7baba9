"""The folder of compiled kernels."""

import importlib.util
import os
import time

import numba
import pytest

from adapterhub.kernels import compilation_cache
from adapterhub.kernels.compilation_cache import source_digest


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "kernels"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "callee.py").write_text("FACTOR = 2\n", encoding="utf-8")
    (folder / "caller.py").write_text("import inner\n", encoding="utf-8")
    return folder


def test_a_change_of_any_file_gives_another_folder(sources):
    before = source_digest(sources)
    assert source_digest(sources) == before
    (sources / "inner" / "callee.py").write_text("FACTOR = 3\n", encoding="utf-8")
    changed = source_digest(sources)
    (sources / "inner" / "callee.py").rename(sources / "inner" / "other.py")
    assert len({before, changed, source_digest(sources)}) == 3


def test_a_caller_is_compiled_anew_when_a_function_that_it_calls_changes(
    sources, tmp_path, monkeypatch
):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(compilation_cache, "__file__", str(sources / "compilation_cache.py"))

    def result(factor):
        """Return what the caller computes in a process that starts now."""
        compilation_cache._folder.cache_clear()
        callee, caller = sources / "inner" / "callee.py", sources / "caller.py"
        text = f"import numba\n@numba.njit\ndef scale(x):\n    return {factor} * x\n"
        callee.write_text(text, encoding="utf-8")
        if not caller.read_text(encoding="utf-8").startswith("def"):
            caller.write_text("def call(x):\n    return scale(x)\n", encoding="utf-8")
        namespaces = []
        for path, given in ((callee, {}), (caller, None)):
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            vars(module).update({"scale": namespaces[0].scale} if given is None else {})
            spec.loader.exec_module(module)
            namespaces.append(module)
        with compilation_cache.compilation_cache():
            return numba.njit(cache=True)(namespaces[1].call)(10)

    try:
        assert (result(2), result(3)) == (20, 30)
        assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 2
    finally:
        compilation_cache._folder.cache_clear()


def test_folders_of_other_versions_are_removed_after_a_month(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "__file__", str(sources / "compilation_cache.py"))
    kernels = tmp_path / "cache" / "kernels"
    for name, days in (("recent", 3), ("old", 31)):
        (kernels / name).mkdir(parents=True)
        stamp = time.time() - days * 24 * 3600
        os.utime(kernels / name, (stamp, stamp))
    found = compilation_cache._folder.__wrapped__(str(tmp_path / "cache"))
    assert sorted(each.name for each in kernels.iterdir()) == sorted([found.name, "recent"])
    assert found.stat().st_mode & 0o777 == 0o700
