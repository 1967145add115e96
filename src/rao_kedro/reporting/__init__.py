"""Figures and the report: tables in, plotly figures and HTML out."""
