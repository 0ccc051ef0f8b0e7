"""Documentation pages that are generated from the code.

- `tables`: the tables of keys in `docs/configuration.md`, of the settings classes. They stand amid prose that people
  read in the repository, so they are checked in: `python -m manual`, in this folder's parent, brings them up to date.
- `pages`: whole pages of the site, one for each hook and one of all commands. `docs/conf.py` writes them when the site
  is built; they are not checked in.
"""
