"""Reports: plotly figures and HTML pages from tables."""
