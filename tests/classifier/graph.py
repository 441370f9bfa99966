"""A walk over everything that an object holds."""

import torch


def walk(root):
    """Yield (path, object) for all objects that can be reached, each object once."""
    seen, stack = {}, [("", root)]
    while stack:
        path, value = stack.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value  # kept alive, so that no other object gets its id
        yield path, value
        if isinstance(value, dict):
            stack += [(f"{path}[{key!r}]", entry) for key, entry in value.items()]
        elif isinstance(value, (list, tuple, set)):
            stack += [(f"{path}[{i}]", entry) for i, entry in enumerate(value)]
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            stack += [(f"{path}.{key}", entry) for key, entry in vars(value).items()]
        for part in ("args", "keywords", "func"):  # of a partial
            if hasattr(value, part) and not isinstance(value, (type, torch.Tensor)):
                stack.append((f"{path}.{part}", getattr(value, part)))
        for cell in getattr(value, "__closure__", None) or ():
            stack.append((f"{path}<closure>", cell.cell_contents))


def tensors(root):
    """Paths of the tensors that can be reached."""
    return [path for path, value in walk(root) if isinstance(value, torch.Tensor)]


def names_of_cuda(root):
    """Paths of whatever is on a CUDA device or names one."""
    found = []
    for path, value in walk(root):
        device = value.device if isinstance(value, torch.Tensor) else value
        if isinstance(device, (str, torch.device)) and str(device).startswith("cuda"):
            found.append(path)
    return found
