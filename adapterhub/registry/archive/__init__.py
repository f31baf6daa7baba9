"""Versions as single files: export, and import of files from any source."""

from adapterhub.registry.archive.export import Export, export_version, write_export
from adapterhub.registry.archive.intake import import_version, read_export

__all__ = ["Export", "export_version", "import_version", "read_export", "write_export"]
