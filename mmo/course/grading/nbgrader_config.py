"""nbgrader's configuration for this course, written by `mmo course nbgrader`; nbgrader reads it in this folder.

It imports nothing of the course: every nbgrader command reads it, and torch would keep each waiting.
"""

import os
from pathlib import Path

from nbgrader.preprocessors import NbGraderPreprocessor
from papermill.parameterize import parameterize_notebook


VARIANT = None  # what the class was asked, by name: `mmo course nbgrader` writes its --variant here
USE_VARIANT = "\n\nfrom mmo.course.grading.variants import use\n\nuse({name!r})  # before the first check: it says what the points say"


class SmokeBudget(NbGraderPreprocessor):
    """Run submissions with the budget `smoke`: points hang on the exercises alone, and nobody's training is worth hours of this machine.

    `budget` is set behind the cell of parameters, as papermill does it; the new cell is tagged "injected-parameters".  There the class's
    variant is chosen too: left to the points, which come last, the first check would still compare with the course as it is.
    """

    def preprocess(self, notebook, resources):
        notebook.metadata.setdefault("papermill", {})  # papermill notes the parameters there, and looks for tags in every cell
        for cell in notebook.cells:
            cell.metadata.setdefault("tags", [])
        shortened = parameterize_notebook(notebook, {"budget": "smoke"})
        if VARIANT:
            injected = next(cell for cell in shortened.cells if "injected-parameters" in cell.metadata.get("tags", []))
            injected.source += USE_VARIANT.format(name=VARIANT)
        Path(os.environ["MMO_RUNS"], "progress.json").unlink(missing_ok=True)  # what the submission before this one predicted: its first word would count
        del shortened.metadata["papermill"]
        return shortened, resources


# What submissions write while they run, and what is forgotten before each: never in anybody's own folder.
os.environ["MMO_RUNS"] = str(Path(__file__).resolve().parent / "runs")
os.environ.pop("MMO_STRICT", None)  # an open exercise is no end to the notebook: the package's own function stands in

c = get_config()  # noqa: F821  (nbgrader's)
c.CourseDirectory.course_id = "minimind-o-by-hand"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}  # as in the learner's edition
c.Execute.timeout = 300  # seconds a cell may take
c.OverwriteCells.add_missing_cells = True  # a check that somebody deleted is put back
c.Autograde.autograde_preprocessors.prepend([SmokeBudget])
