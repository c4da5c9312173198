"""Executed notebooks without live parts: progress bars and controls as words, for where no kernel answers any more.

    settle(notebook)        # before it is kept as a solution, or made into a page

A widget's output holds only a name and how it looked when it was first shown: a bar at 0 %, `FloatSlider(value=0.2, …)`.  How it looked in the
end stands in the notebook's metadata, where nbclient and papermill keep it, so that is what is written out:

    latents: 32 in 0:05                                       a tqdm bar (`tqdm.notebook.TqdmHBox`); "19 of 32 in 0:03" if it was left there
    Controls that work when you run this notebook: question (What is two plus three?), ask.       any other widgets of a cell, together

What stands in a box beside its controls (`HTML`, `Label`, what an `Output` captured) is shown as it is.  Notebooks that somebody works in keep their widgets.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import nbformat
from nbformat import NotebookNode

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
REFERENCE = "IPY_MODEL_"
BAR = re.compile(r"(?P<done>[^\s/]+)/(?P<all>\S+) \[(?P<time>[\d:]+)<[^,]*, (?P<rate>[^,\]]*)(?:, (?P<more>[^\]]*))?\]")  # tqdm's right half
FIRST_SHOWN = re.compile(r"^(?:(?P<what>.*): +)? *(?:\d+%\|.*\| \d+/(?P<all>\d+)|\d+(?:\D*)) \[\d\d:\d\d(?:<\?)?, (?P<rate>[^\]]*)\]$")  # a bar as text, before its first step
UNIT = re.compile(r"^[\d.?]+[kMGT]?(?P<fast>.+)/s$|^[\d.?]+s/(?P<slow>.+)$")
NAME = re.compile(r"description='((?:[^'\\]|\\.)*)'")
TEXTS = ("HTMLModel", "HTMLMathModel", "LabelModel")


def settle(notebook: NotebookNode) -> NotebookNode:
    """Turn every widget among the outputs into words, in place, and forget the widgets' state; returns the notebook."""
    states = {name: each["state"] for name, each in notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {}).items()}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(settled(cell.outputs, states))
    return notebook


def settled(outputs: list[NotebookNode], states: dict[str, dict]) -> Iterator[NotebookNode]:
    """Outputs of one cell, widgets turned into words; controls that follow one another share a sentence.  states: by name of the widget."""
    waiting: list[NotebookNode] = []
    for output in outputs:
        if VIEW not in output.get("data", {}):
            yield from controls(waiting, states)
            waiting = []
            yield output
            continue
        line = bar_line(states.get(output.data[VIEW]["model_id"], {}), states) or first_shown("".join(output.data.get("text/plain", "")))
        if line:
            yield from controls(waiting, states)
            waiting = []
            yield nbformat.v4.new_output("display_data", data={"text/plain": line})
        else:
            waiting.append(output)
    yield from controls(waiting, states)


# --- Progress bars -----------------------------------------------------------------------------------------------


def children(state: dict, states: dict[str, dict]) -> list[dict]:
    """The states of what stands in a box."""
    return [states[name.removeprefix(REFERENCE)] for name in state.get("children", ()) if name.removeprefix(REFERENCE) in states]


def bar_line(state: dict, states: dict[str, dict]) -> str | None:
    """A tqdm bar as it stood at last, in one line; None where the widget is none.  A bar is a box of text, bar, text."""
    inside = children(state, states)
    if [each.get("_model_name") for each in inside] != ["HTMLModel", "FloatProgressModel", "HTMLModel"]:
        return None
    left, right = (html.unescape(each["value"]).replace("\u2007", " ").strip() for each in (inside[0], inside[2]))
    what = re.sub(r":? *(\d+%)?$", "", left)
    found = BAR.fullmatch(right)
    return f"{what}: {counted(found) if found else right}" if what else counted(found) if found else f"{left} {right}".strip()


def counted(found: re.Match) -> str:
    """ "2400 steps in 14:06", or "1200 of 2400 steps in 7:03" where it was left."""
    done, whole = found["done"], found["all"]
    seconds = found["time"].removeprefix("0") or "0"
    time = "in less than a second" if seconds == "0:00" else f"in {seconds}"
    count = done if whole in (done, "?") else f"{done} of {whole}"
    return " ".join(filter(None, [count, unit(found["rate"], done if whole == "?" else whole), time])) + (f", {found['more']}" if found["more"] else "")


def unit(rate: str, count: str) -> str:
    """What "2.84step/s" or "1.20s/step" counts, one or several; nothing for tqdm's own "it"."""
    found = UNIT.match(rate.strip())
    word = (found["fast"] or found["slow"]) if found else "it"
    return "" if word == "it" else word if count == "1" else f"{word}s"


def first_shown(plain: str) -> str | None:
    """What can still be said of a bar of which only its first picture was kept; None where it is no bar."""
    found = FIRST_SHOWN.match(plain)
    if not found:
        return None
    count = " ".join(filter(None, [found["all"], unit(found["rate"], found["all"])])) if found["all"] else "a progress bar, whose count was not kept"
    return f"{found['what']}: {count}" if found["what"] else count


# --- Controls ----------------------------------------------------------------------------------------------------


def controls(outputs: list[NotebookNode], states: dict[str, dict]) -> Iterator[NotebookNode]:
    """Widgets of one cell as one sentence, and behind it what an `Output` among them held."""
    named, shown = [], []
    for output in outputs:
        state = states.get(output.data[VIEW]["model_id"])
        if state:
            gather(state, states, named, shown)
        else:
            named += [name for name in NAME.findall("".join(output.data.get("text/plain", ""))) if name]
    if named:
        words = f"Controls that work when you run this notebook: {', '.join(named)}."
        yield nbformat.v4.new_output("display_data", data={"text/html": f"<p><em>{html.escape(words)}</em></p>", "text/plain": words})
    yield from shown


def gather(state: dict, states: dict[str, dict], named: list[str], shown: list[NotebookNode]) -> None:
    """Walk a widget and what stands in it: names of controls with their values, texts, captured outputs."""
    if state.get("_model_name") == "OutputModel":
        shown.extend(settled([nbformat.from_dict(each) for each in state.get("outputs", ())], states))
    elif state.get("_model_name") in TEXTS and state.get("value"):
        plain = html.unescape(re.sub(r"<[^>]+>", "", state["value"]))
        shown.append(nbformat.v4.new_output("display_data", data={"text/html": state["value"], "text/plain": plain}))
    elif state.get("description"):
        named.append(name_and_value(state))
    for inside in children(state, states):
        gather(inside, states, named, shown)


def name_and_value(state: dict) -> str:
    """ "temperature (0.2)", "voice (joe)", "ask"."""
    labels, chosen = state.get("_options_labels"), state.get("index")
    value = labels[chosen] if labels and isinstance(chosen, int) else state.get("value")
    if isinstance(value, bool):
        value = "on" if value else "off"
    return state["description"] + (f" ({value})" if isinstance(value, (str, int, float)) and value != "" else "")
