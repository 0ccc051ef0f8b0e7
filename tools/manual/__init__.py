"""Documentation pages that are generated from the code.

- `tables`: the tables of keys in `docs/configuration.md`, from the settings classes. People read that page in the
  repository, so the tables are checked in: `make reference` updates them.
- `pages`: whole pages of the site, one for each hook and one of all commands. `docs/conf.py` writes them when the site
  is built; they are not checked in.
"""
