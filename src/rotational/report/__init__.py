"""Reports: one self-contained HTML page from one or more logs.

    page       write(): reads logs, puts the file together        page.css, page.js   how it looks and draws
    document   what all pages share, and how they are written
    arm parts text                                                the pieces of HTML, and every fixed sentence
    charts strip bins                                             the numbers that the charts show
    verdict    a layer's state in plain language                  outlook             a forecast drawn, a plan's page

Nothing here needs torch: a log is read on any machine with numpy and plotly.
"""
