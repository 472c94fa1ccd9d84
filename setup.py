"Everything that setuptools needs to know is read from `settings.ini`, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
paper,data,dev = (cfg[f'{k}_requirements'].split() for k in ('paper', 'data', 'dev'))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], license='Apache-2.0', url=cfg['git_url'],
    long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else '',
    long_description_content_type='text/markdown',
    packages=find_packages(include=['dde_kit', 'dde_kit.*']),
    package_data={'dde_kit': ['weights/**/*.safetensors', 'weights/**/*.json', 'weights/**/*.npz']},
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(),
    extras_require=dict(paper=paper, music=cfg['music_requirements'].split(), data=data, dev=dev),
    entry_points={'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe=False,
)
