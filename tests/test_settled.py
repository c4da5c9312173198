"""Where no kernel answers, an executed notebook shows no stub: bars tell what became of them, controls are named, captured outputs are kept."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from mmo.settled import STATE, VIEW, first_shown, settle


def run(*cells: str) -> nbformat.NotebookNode:
    """A notebook of these cells, executed as solutions are."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


def plain(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell shows, as text."""
    return [output.text if output.output_type == "stream" else output.data["text/plain"] for output in cell.outputs]


@pytest.fixture(scope="module")
def executed():
    """Bars that end, that are left, that know no end, whose loop fails; controls, boxes and captured outputs."""
    return run(
        "from tqdm.auto import tqdm\nimport time\nfor _ in tqdm(range(3), desc='the first'):\n    pass",
        "print('before')\nbar = tqdm(total=4, desc='a <b> & c', unit='step')\nbar.update(1)\nbar.set_postfix(loss=0.5)\nbar.close()\nprint('after')",
        "for _ in tqdm(iter(range(2)), desc='no end known', unit='sound'):\n    pass\nfor _ in tqdm(range(1), unit='answer'):\n    time.sleep(1.1)",
        "import ipywidgets as widgets\nfrom IPython.display import HTML\npage = widgets.Output()\nwith page:\n    print('captured')\n    display(HTML('<b>kept</b>'))\n"
        "display(widgets.Text('why?', description='question'), widgets.Dropdown(options=['joe', 'slt'], value='slt', description='voice'), widgets.Button(description='ask'), page)",
        "print('one')\nwidgets.VBox([widgets.HTML('<p>Read <i>this</i>.</p>'), widgets.HBox([widgets.FloatSlider(0.2, description='warmth'), widgets.Checkbox(True, description='twice')])])",
    )


def test_no_widget_is_left(executed):
    notebook = settle(executed)
    text = nbformat.writes(notebook)
    assert VIEW not in text and STATE not in text and "%|" not in text
    nbformat.validate(notebook)
    assert plain(notebook.cells[0]) == ["the first: 3 in less than a second"]
    assert plain(notebook.cells[1]) == ["before\n", "a <b> & c: 1 of 4 steps in less than a second, loss=0.5", "after\n"]
    assert plain(notebook.cells[2]) == ["no end known: 2 sounds in less than a second", "1 answer in 0:01"]
    assert plain(notebook.cells[3]) == ["Controls that work when you run this notebook: question (why?), voice (slt), ask.", "captured\n", "<IPython.core.display.HTML object>"]
    assert notebook.cells[3].outputs[2].data["text/html"] == "<b>kept</b>"
    assert plain(notebook.cells[4])[1:] == ["Controls that work when you run this notebook: warmth (0.2), twice (on).", "Read this."]
    assert settle(notebook) == notebook, "a settled notebook stays as it is"


@pytest.mark.parametrize(
    ("kept", "wanted"),
    [
        ("latents:   0%|          | 0/32 [00:00<?, ?it/s]", "latents: 32"),
        ("t2a: read:   0%|          | 0/40 [00:00<?, ?answer/s]", "t2a: read: 40 answers"),
        ("step 50:   0%|          | 0/1 [00:00<?, ?answer/s]", "step 50: 1 answer"),
        ("3 codebooks given: 0step [00:00, ?step/s]", "3 codebooks given: a progress bar, whose count was not kept"),
        ("  0%|          | 0/60 [00:00<?, ?it/s]", "60"),
        ("FloatSlider(value=0.2, description='temperature', max=1.2)", None),
        ("Output()", None),
    ],
)
def test_a_bar_without_its_state_promises_nothing(kept, wanted):
    assert first_shown(kept) == wanted


def test_controls_without_their_state_are_named():
    outputs = [
        nbformat.v4.new_output("display_data", data={VIEW: {"model_id": "gone"}, "text/plain": words})
        for words in ("FloatSlider(value=0.2, description='temperature', max=1.2)", "Button(description='ask', style=ButtonStyle())", "Output()")
    ]
    notebook = settle(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)]))
    assert plain(notebook.cells[0]) == ["Controls that work when you run this notebook: temperature, ask."]
