"""Reads one inventory file into the tree of groups and hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleet.inventory.check import check_variable, is_template
from fleet.inventory.document import Document, Entry, read
from fleet.inventory.names import suggest
from fleet.inventory.problems import Problems
from fleet.inventory.ranges import RangeError, expand
from fleet.inventory.tree import ALL, Scope, Tree

_SECTIONS = ("hosts", "children", "vars")


def read_source(path: Path, tree: Tree, problems: Problems) -> None:
    """Add a file's groups and hosts to the tree; note what is wrong with it."""
    document = read(path, problems)
    if document is not None:
        _Reader(document, tree, os.path.abspath(path)).read()


def read_variables(document: Document, node: Any, into: Scope) -> Iterator[tuple[str, Any, Any]]:
    """Check and set every variable of a mapping; gives (name, value node, value) of each."""
    for entry in document.entries(node, "a variable's name"):
        value = document.value(entry.value_node)
        value = check_variable(document, entry.key, entry.key_node, entry.value_node, value)
        into.set(entry.key, value, document.place(entry.key_node))
        yield entry.key, entry.value_node, value


class _Reader:
    def __init__(self, document: Document, tree: Tree, file: str) -> None:
        self._document = document
        self._problem = document.problem
        self._tree = tree
        self._file = file

    def read(self) -> None:
        root = self._document.root
        if self._document.is_null(root):
            self._document.whole_file_problem("the inventory is empty", "start it with `all:`, then `hosts:`")
            return
        if not self._document.is_mapping(root):
            kind = self._document.kind(root)
            self._problem(root, f"an inventory is a mapping of groups, not {kind}", "start it with `all:`")
            return
        for entry in self._document.entries(root, "a group's name"):
            if entry.key in _SECTIONS:
                self._problem(
                    entry.key_node,
                    f"`{entry.key}` stands outside of any group",
                    "put it under `all:`",
                )
            elif entry.key == "plugin":
                self._problem(
                    entry.key_node,
                    "this configures an Ansible inventory plugin, which fleet does not run",
                    "write its result: ansible-inventory -i FILE --list --yaml > inventory.yml",
                )
                return
            else:
                self._group(entry)

    def _group(self, entry: Entry) -> None:
        group = self._tree.group(entry.key)
        node = entry.value_node
        if self._document.is_null(node):
            return
        if not self._document.is_mapping(node):
            self._problem(
                node,
                f"group {group.name} must be a mapping, not {self._document.kind(node)}",
                "give it `hosts:`, `children:` or `vars:`",
            )
            return
        for section in self._document.entries(node, f"a key of group {group.name}"):
            if section.key not in _SECTIONS:
                self._unknown_section(group.name, section)
            elif not self._is_usable(group.name, section):
                continue
            elif section.key == "vars":
                self._vars(group.name, section.value_node)
            elif section.key == "children":
                self._children(group.name, section.value_node)
            else:
                for host in self._document.keyed(section.value_node, "a host's name"):
                    self._hosts(group.name, host)

    def _unknown_section(self, group: str, section: Entry) -> None:
        meant = suggest(section.key, _SECTIONS, cutoff=0.7)
        self._problem(
            section.key_node,
            f"unknown key `{section.key}` in group {group}",
            f"did you mean `{meant}`?"
            if meant
            else "hosts stand under `hosts:`, groups under `children:`, variables under `vars:`",
        )

    def _is_usable(self, group: str, section: Entry) -> bool:
        node, document = section.value_node, self._document
        if document.is_null(node):
            return False
        if document.is_mapping(node) or (document.is_text(node) and section.key != "vars"):
            return True
        each = "`name: value`" if section.key == "vars" else "`name:`, with the colon and without a dash"
        self._problem(
            node,
            f"`{section.key}` of group {group} must be a mapping, not {document.kind(node)}",
            f"write each as {each}",
        )
        return False

    def _vars(self, group: str, node: Any) -> None:
        into = self._tree.groups[group]
        for name, value_node, value in read_variables(self._document, node, into.scope):
            if name == "ansible_group_priority":  # a setting of the group, not a variable of its hosts
                del into.scope.values[name], into.scope.places[name]
                if is_template(value):
                    self._problem(value_node, f"{name} cannot be a template", "write a number")
                elif isinstance(value, int) or str(value).isdecimal():
                    into.priority = int(value)

    def _children(self, group: str, node: Any) -> None:
        for entry in self._document.keyed(node, "a group's name"):
            if entry.key in _SECTIONS:
                self._misplaced(entry, "group")
                continue
            self._tree.group(entry.key)
            if entry.key == ALL or not self._tree.add_child(group, entry.key):
                self._problem(
                    entry.key_node,
                    f"group {entry.key} cannot be inside {group}: it contains {group}",
                    "break the loop: remove one of the two",
                )
            else:
                self._group(entry)

    def _hosts(self, group: str, entry: Entry) -> None:
        if entry.key in _SECTIONS:
            self._misplaced(entry, "host")
            return
        try:
            names, port = expand(entry.key)
        except RangeError as error:
            self._problem(entry.key_node, str(error), error.remedy)
            return
        node, scope = entry.value_node, Scope()
        if not self._document.is_null(node):
            if not self._document.is_mapping(node):
                value = self._document.value(node)
                self._problem(
                    node,
                    f"host {entry.key} must be a mapping of variables, not {self._document.kind(node)}",
                    f"write `ansible_host: {value}` on a line of its own, indented below the host"
                    if isinstance(value, str)
                    else "write each variable as `name: value`, indented below the host",
                )
                return
            for _ in read_variables(self._document, node, scope):
                pass
        place = self._document.place(entry.key_node)
        for name in names:
            own = self._tree.add_host(name, group, port, place, self._file).scope
            own.values.update(scope.values)
            own.places.update(scope.places)

    def _misplaced(self, entry: Entry, kind: str) -> None:
        self._problem(
            entry.key_node,
            f"`{entry.key}` stands where the name of a {kind} belongs",
            "it is indented too deeply: put it beside `hosts:` or `children:`",
        )
