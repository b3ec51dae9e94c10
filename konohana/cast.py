"""The cast of the first show, Konohana Kitan: the names the shipped weights know, and how to spell them in Latin.

A detector's classes come from its own data. Only the toy show, which draws this cast, depends on these names. Elsewhere
they are spelled in Latin: in labels and curves where no font has the glyphs, and in printed metrics.
"""

# Class name as written in annotations -> romanised spelling. The order is the annotations' own.
ROMANISED = {
    '柚': 'Yuzu',
    '皋': 'Satsuki',
    '莲': 'Ren',
    '枣': 'Natsume',
    '樱': 'Sakura',
    '桐': 'Kiri',
    '椿': 'Tsubaki',
    '柊': 'Hiiragi',
    '菖': 'Ayame',
    '八百比丘尼': 'Yao Bikuni',
    '药店老板': 'Apothecary',
    '瓜之介': 'Urinosuke',
    '阿菊': 'Okiku',
    '其他': 'other',
}

CLASS_NAMES = tuple(ROMANISED)

# Boxes with this name mark a region in which nothing is learned and nothing is counted ("do not count").
IGNORE_CLASS = '不计算'

# Names that several people may have at once; any other stands for one person, of whom there is one in a frame.
SHARED_NAMES = ('其他', 'other', 'others', 'unknown')
