"""Execute committed notebooks in place and keep their outputs, without the metadata of tools.

    .venv/bin/python setup_scripts/refresh_notebooks.py notebooks/01_cluster_setup.ipynb
"""

import sys
from pathlib import Path

import nbclient
import nbformat
from traitlets.config import Config


def clean(notebook):
    """Remove timestamps and the metadata of tools, which change from one execution to the next."""
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        tags = [tag for tag in cell.metadata.get("tags", []) if not tag.startswith("papermill")]
        cell.metadata = {"tags": tags} if tags else {}
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
            for output in cell.outputs:
                output.pop("transient", None)
                if "metadata" in output:
                    output.metadata = {}


def joined(outputs):
    """Join neighbouring outputs of the same stream."""
    result = []
    for output in outputs:
        if result and output.output_type == "stream" == result[-1].output_type and output.name == result[-1].name:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def main(paths):
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=None, store_widget_state=False,
                                config=Config(KernelManager={"transport_encryption": "auto"}),
                                resources={"metadata": {"path": str(path.parent)}}).execute()
        clean(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
