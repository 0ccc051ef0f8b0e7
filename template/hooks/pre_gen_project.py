"""Refuses what cannot become a distribution, before anything is written."""

import re
import sys

NAME = {{ cookiecutter.name | tojson }}

if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([ -][A-Za-z0-9]+)*", NAME):
    sys.exit("error: the name must begin with a letter and be made of letters, digits and spaces, such as By Study")
