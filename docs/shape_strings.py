"""griffe extension: keeps jaxtyping's shapes, which are strings, as strings in signatures.

Without it `Float[Array, "c *grid"]` is shown as `Float[Array, c * grid]`, as if the string were a
forward reference.
"""

import ast

import griffe


class ShapeStrings(griffe.Extension):
    """Reads annotations again, without parsing the strings inside them."""

    def on_function_instance(self, *, node, func: griffe.Function, **_) -> None:
        """Replaces the annotations of parameters and of the result."""
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        listed = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        listed += [extra for extra in (node.args.vararg, node.args.kwarg) if extra is not None]
        for argument in listed:
            if argument.annotation is not None:
                func.parameters[argument.arg].annotation = _read(argument.annotation, func)
        if node.returns is not None:
            func.returns = _read(node.returns, func)

    def on_attribute_instance(self, *, node, attr: griffe.Attribute, **_) -> None:
        """Replaces the annotation of a field or a property."""
        annotation = getattr(node, "returns", getattr(node, "annotation", None))
        if annotation is not None:
            attr.annotation = _read(annotation, attr)


def _read(annotation: ast.expr, owner: griffe.Function | griffe.Attribute):
    # A string that is the whole annotation is a forward reference.
    whole = isinstance(annotation, ast.Constant)
    return griffe.safe_get_expression(annotation, parent=owner.parent, parse_strings=whole)
