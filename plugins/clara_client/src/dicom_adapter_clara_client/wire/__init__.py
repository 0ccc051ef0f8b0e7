"""The messages and services of the Clara Platform API: `.proto` files and the modules generated from them."""
