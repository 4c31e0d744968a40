"""Every folder of code is a package: a room without `__init__` would be invisible to the check of the floors."""

from tests.shape.source_tree import library_files


def test_every_folder_of_a_room_is_a_package() -> None:
    folders = {file.path.parent for file in library_files()}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
