"""Reject names that are not valid for a distribution, before any file is written."""

import re
import sys

NAME = {{ cookiecutter.name | tojson }}

if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([ -][A-Za-z0-9]+)*", NAME):
    sys.exit("error: the name must begin with a letter and contain only letters, digits and spaces, for example By Study")
