"""MkDocs hook: writes the reference pages from the code, and refuses pages that need the network.

Parameters come from the pydantic models of `rao_kedro.config`, tables from the pandera schemas that the catalog names,
objectives from their registry, and the API from every module's docstrings. Nothing generated is committed.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import griffe
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import rao_kedro
from rao_kedro.config.globals import GlobalParameters
from rao_kedro.framework.config_loader import StudyConfigLoader
from rao_kedro.objectives import get_requirements, make_objective, objective_names
from rao_kedro.pipelines.parameters import ProjectParameters

ROOT = Path(__file__).parents[2]
# Packages whose API is documented, in the order of the layers, from the science down to the framework.
API_PACKAGES = (
    "objectives",
    "rewards",
    "data",
    "models",
    "training",
    "scoring",
    "generation",
    "judges",
    "evals",
    "reporting",
    "config",
    "datasets",
    "planning",
    "framework",
    "pipelines",
)
LOADED_FROM_ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link[^>]*\srel=["']?(?:stylesheet|preconnect|preload|icon)["']?[^>]*\shref=["']?((?:https?:)?//[^"'\s>]+)"""
)
BOUNDS = {annotated_types.Ge: "≥ {.ge}", annotated_types.Gt: "> {.gt}", annotated_types.Le: "≤ {.le}"}
BOUNDS |= {annotated_types.Lt: "< {.lt}", annotated_types.MinLen: "at least {.min_length} long"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page for each package into the navigation, below the entry `API`."""
    pages = [{package: f"reference/api/{package}.md"} for package in API_PACKAGES]
    pages.append({"other modules": "reference/api/top_level.md"})
    for entry in config.nav or []:
        for item in entry.get("Reference", []) if isinstance(entry, dict) else []:
            if isinstance(item, dict) and "API" in item:
                item["API"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/parameters.md": parameters_page(),
        "reference/defaults.md": defaults_page(),
        "reference/tables.md": tables_page(),
        "reference/objectives.md": objectives_page(),
        **{f"reference/api/{package}.md": api_page(package) for package in API_PACKAGES},
        "reference/api/top_level.md": api_page(None),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    for result in sorted((ROOT / "benchmarks/results").glob("*")):
        if result.suffix in (".md", ".png"):
            files.append(File.generated(config, f"benchmarks/results/{result.name}", abs_src_path=str(result)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that loads a script, a style or a picture from elsewhere."""
    if loaded := [a or b for a, b in LOADED_FROM_ELSEWHERE.findall(output)]:
        raise PluginError(f"{page.file.src_uri} loads {', '.join(loaded)}: pages must be readable without a network")
    return output


# Parameters


def parameters_page() -> str:
    """Return a section for every pydantic model that parameters are made of, with all of its fields."""
    places = model_places()
    lines = [
        "# Parameters",
        "",
        "Every parameter, generated from the pydantic models that check them before anything runs. A full name is",
        "a place and a field of it: `reward_modeling.training` and `learning_rate` make the option",
        "`--params reward_modeling.training.learning_rate=1e-5`. `{name}` stands for a name of yours, or of a method.",
        "An unknown name is refused, with the nearest known one. [Values of the default environment](defaults.md)",
        "lists what `conf/base` sets. Defaults below are those of the code, where no configuration file sets any.",
        "",
    ]
    lines += [f"- [{section_title(model)}](#{anchor(model)})" for model in places]
    for model, where in places.items():
        lines += ["", f"## {section_title(model)} {{#{anchor(model)}}}", "", summary(model), ""]
        lines += [f"Places: {', '.join(f'`{place}`' for place in where)}.", ""] if any(where) else []
        lines += ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
        described = field_descriptions(model)
        for name, field in model.model_fields.items():
            cells = (f"`{field.alias or name}`", type_text(field), default_text(field), described.get(name, ""))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def model_places() -> dict[type[BaseModel], list[str]]:
    """Return all models below the project's parameters and globals, with the full names of where each is used."""
    places: dict[type[BaseModel], list[str]] = {ProjectParameters: [], GlobalParameters: []}

    def visit(model: type[BaseModel], before: str) -> None:
        for name, field in model.model_fields.items():
            for nested, place in nested_models(field.annotation, f"{before}{name}"):
                places.setdefault(nested, [])
                if place not in places[nested]:
                    places[nested].append(place)
                    visit(nested, f"{place}.")

    visit(ProjectParameters, "")
    visit(GlobalParameters, "")
    return places


def nested_models(annotation: Any, place: str) -> Iterator[tuple[type[BaseModel], str]]:
    """Return the models in a type, each with its place: `alignment` of a dictionary becomes `alignment.{name}`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, place
    elif get_origin(annotation) in (dict, Mapping):
        yield from nested_models(get_args(annotation)[1], f"{place}.{{name}}")
    else:
        for part in get_args(annotation):
            yield from nested_models(part, place)


def section_title(model: type[BaseModel]) -> str:
    """Return the title of a model's section: its name in words."""
    name = model.__name__.removesuffix("Parameters") or model.__name__
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", name.replace("LoRA", "LORA"))
    text = " ".join(word if word.isupper() else word.lower() for word in words)
    return f"{text[0].upper()}{text[1:]}".replace("LORA", "LoRA")


def anchor(model: type[BaseModel]) -> str:
    """Return the anchor of a model's section."""
    return model.__name__.lower()


def summary(documented: object) -> str:
    """Return a docstring without its sections."""
    sections = griffe.Docstring(inspect.getdoc(documented) or "").parse("google", warnings=False)
    return "\n\n".join(part.value for part in sections if part.kind is griffe.DocstringSectionKind.text)


def field_descriptions(documented: type) -> dict[str, str]:
    """Return what `Attributes:` of a class and of its bases, or `description` of a field, say of each field."""
    found: dict[str, str] = {}
    for base in reversed(documented.__mro__):
        text = base.__dict__.get("__doc__") or ""
        for section in griffe.Docstring(inspect.cleandoc(text)).parse("google", warnings=False):
            if section.kind is griffe.DocstringSectionKind.attributes:
                found |= {entry.name.rstrip("_"): " ".join(entry.description.split()) for entry in section.value}
    if issubclass(documented, BaseModel):
        found |= {name: field.description for name, field in documented.model_fields.items() if field.description}
    return found


def type_text(field: FieldInfo) -> str:
    """Return a field's type in words, with its bounds."""
    return ", ".join([type_name(field.annotation), *bounds(field.metadata)])


def bounds(metadata: list[Any] | tuple[Any, ...]) -> list[str]:
    """Return the bounds among a field's metadata."""
    return [BOUNDS[type(entry)].format(entry) for entry in metadata if type(entry) in BOUNDS]


def type_name(annotation: Any) -> str:
    """Return a type in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([type_name(args[0]), *bounds(args[1:])])
    if origin in (Union, UnionType):
        return " or ".join("null" if part is type(None) else type_name(part) for part in args)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is list or origin is tuple:
        return f"list of {type_name(args[0])}"
    if origin in (dict, Mapping):
        return f"mapping of {type_name(args[0])} to {type_name(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{section_title(annotation)}](#{anchor(annotation)})"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Any: "anything", object: "anything"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_text(field: FieldInfo) -> str:
    """Return a field's default as YAML writes it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True) if field.default is PydanticUndefined else field.default
    if isinstance(value, BaseModel):
        return "its own defaults"
    return f"`{yaml_value(value)}`"


def yaml_value(value: Any) -> str:
    """Return a value on one line, as YAML writes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip() or '""'


def defaults_page() -> str:
    """Return every parameter of `conf/base` with its resolved value."""
    config = StudyConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")
    lines = [
        "# Values of the default environment",
        "",
        "What `kedro run` uses when no environment and no `--params` says otherwise, with every `${globals:...}`",
        "resolved. [Parameters](parameters.md) says what each means.",
    ]
    for title, key in (("globals.yml", "globals"), ("parameters", "parameters")):
        lines += ["", f"## {title}", "", "| name | value |", "| --- | --- |"]
        for name, value in leaves(config[key]):
            text = yaml_value(value).replace("|", "\\|")
            lines.append(f"| `{name}` | `{text}` |")
    return "\n".join(lines) + "\n"


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Return the full name and the value of every leaf."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


# Tables


def tables_page() -> str:
    """Return every schema that the catalog names, with the datasets that it checks and its columns."""
    catalog = StudyConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")["catalog"]
    datasets: dict[str, list[str]] = {}
    for name, entry in catalog.items():
        if validator := entry.get("validator"):
            table = validator if isinstance(validator, str) else validator["options"]["table"]
            datasets.setdefault(table, []).append(f"`{name}` ({entry['filepath']})")
    lines = [
        "# Tables",
        "",
        "Every table is checked against a pandera schema when it is saved and when it is loaded: a column that is",
        "missing, unknown, of another type or out of its bounds is an error. This page is generated from the schemas.",
    ]
    for path, names in datasets.items():
        module, _, attribute = path.rpartition(".")
        schema = getattr(importlib.import_module(module), attribute)
        lines += ["", f"## {attribute}", "", summary(schema), "", f"Datasets: {', '.join(names)}.", ""]
        lines += ["| column | type | null allowed | checks |", "| --- | --- | --- | --- |"]
        for name, column in schema.to_schema().columns.items():
            checks = [str(check.error or check.name) for check in column.checks]
            checks += ["unique"] if column.unique else []
            checks += [] if column.required else ["may be left out"]
            kind = str(column.dtype) if column.dtype is not None else "any"
            cells = (f"`{name}`", kind, "yes" if column.nullable else "no", "; ".join(checks))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


# Objectives


def objectives_page() -> str:
    """Return every objective with its loss, as its docstring states it, and its parameters."""
    lines = [
        "# Objectives",
        "",
        "Generated from the classes of `rao_kedro.objectives`. [Methods](../science/methods.md) has all losses side by",
        "side in one notation, with their sources.",
    ]
    for name in objective_names():
        kind = type(make_objective(name))
        described = field_descriptions(kind)
        lines += ["", f"## {name}", "", summary(kind), "", f"{requirements_text(name)}", ""]
        lines += ["| parameter | default | meaning |", "| --- | --- | --- |"]
        for entry in [of for of in fields(kind) if of.init]:
            default = "required" if entry.default is MISSING else f"`{yaml_value(entry.default)}`"
            key = entry.name.rstrip("_")
            lines.append(f"| `{key}` | {default} | {described.get(key, '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def requirements_text(name: str) -> str:
    """Return what the registry says that an objective needs, as a sentence."""
    needed = get_requirements(name)
    needs = [field.replace("_", " ") for field, value in asdict(needed).items() if value is True]
    return f"Reads {needed.reads}; needs {', '.join(needs)}." if needs else f"Reads {needed.reads}; needs no reference."


# API


def api_page(package: str | None) -> str:
    """Return the page of a package's modules, or of those that are in none."""
    if package is None:
        found = [m.name for m in pkgutil.iter_modules(rao_kedro.__path__, "rao_kedro.") if not m.ispkg]
        names = [name for name in found if not name.endswith("__main__")]
        title = "rao_kedro"
    else:
        title = f"rao_kedro.{package}"
        path = [str(Path(rao_kedro.__path__[0], package))]
        names = [title, *(module.name for module in pkgutil.walk_packages(path, f"{title}."))]
    lines = [f"# {title}", ""]
    for name in names:
        lines += [f"::: {name}", ""]
    return "\n".join(lines)
