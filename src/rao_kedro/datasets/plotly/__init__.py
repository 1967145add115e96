"""Figures; the names of module and class are those by which kedro-viz knows them, for the icon."""
