"""What the tables and the report page say, in both languages: the words around the numbers."""

from rows import BASELINE

CAPTIONS = {
    "README.md": {
        "gain": "**What do I gain, what do I lose?** On **{cpu}** ({isa}), threads: {threads}, in forward "
        "passes and from JPEG to boxes:",
        "confirmed": "Every number of this table is confirmed: on {images} images of COCO val2017, from the "
        "shipped file, and in five fresh processes (`make confirm`).",
        "units": "Δ is the relative change of accuracy (mAP50-95); brackets hold 95 % intervals. *Lost at "
        "most* is 95 % certain. [How to read the tables](docs/tables.md).",
        "unconfirmed": "None of this is confirmed yet: the bounds are those of {images} images, the speeds "
        "those of one process. `make confirm` looks again, at 1000 images and in fresh processes.",
        "goal": "Goal",
        "take": "Take",
        "goals": {
            "size_ratio": "smallest file",
            "speedup": "fastest",
            "both": "small and fast",
            0.01: "nothing lost",
            0.03: "loss ≤ 3 %",
        },
        "opponent": "without this project: the fastest export that loses nothing",
        "nobody": "no model meets this",
        "limit": "lost at most, %",
        "pipeline": "× faster,<br>JPEG → boxes",
        "every": "All goals. One is met if the loss is within it for sure (one-sided 95 % bound), not by the "
        "estimate; *nothing lost* is a bound of 1 %.",
        "trust": "**Can I trust it?** The tables below are measured on {images} images of COCO val2017 that "
        "nothing was calibrated or tuned on. Each model is compared with the original on the same images; "
        "intervals come from resampling these, for speed from pairs timed in alternation. A loss is within "
        "the noise if its interval reaches 0: so it is for {same} of {count} models. A typical interval is "
        "±{half} %; losses smaller than that stay unseen, and the best of many is a little flattered: hence "
        "the confirmation. [Tests](tests/test_accuracy.py) hold the metrics against ultralytics' own "
        "validation and COCOeval.",
        "gallery": "What the original, the smallest and the fastest model see (loss ≤ 3 %), each named above "
        "its column: only differences are labelled",
        "pictured": "Boxes of the original and of the winners",
        "more": "[results/report.html](results/report.html) has every column of every run, to sort and to "
        "filter: download it and open it in a browser.",
        "small": "**Why not a network that was small from the start?** In {least[size_mb]:.2f} MB "
        "{least[link]} has an mAP50-95 of {least[map50_95]:.3f}, {best[link]} in {best[size_mb]:.2f} MB one "
        "of {best[map50_95]:.3f}, {more}.",
        "small and fast": "On {cpu} ({isa}) {nano[link]} is {nano[speedup]:.2f}× as fast as the original, "
        "{fast[link]} {fast[speedup]:.2f}× with an mAP50-95 of {fast[map50_95]:.3f} against "
        "{nano[map50_95]:.3f}.",
        "all": "### All experiments",
        "figures": {
            "pareto": "Change of mAP50-95 against size and against speed-up; models that no other beats "
            "are numbered and listed",
            "forest": "Change of mAP50-95 of every experiment with its 95 % interval, by homework",
            "speed": "Speed-up of every experiment with its 95 % interval, by machine",
        },
        "baseline": BASELINE,
        "empty": "No runs yet: `make run HW=all` fills this in.",
        "machine": "On **{cpu}** ({isa}), threads: {threads}; batch 1, 640×640; "
        "{images} images of COCO val2017.",
        "experiment": "Experiment",
        "ms": "CPU ms: original → own<br>executes in",
        "times": "× faster",
        "milliseconds": "CPU ms",
        "over": "× over {name}",
        "again": "confirmed",
        "size": "MB<br>(× smaller)",
        "zeros": "Zeros, %",
        "reference": "reference",
        "images": "images",
        "other": "On **{cpu}** ({isa}), threads: {threads}: {found}. [The report](results/report.html) has "
        "every row.",
        "coco128": "### coco128: the first table and now",
        "upper": "Upper line: the first table, compiled by hand. Lower line, bold: now.",
        "changed": "What changed in between: images are letterboxed to a square instead of a rectangle, they "
        "are the original JPEGs rather than re-encoded ones, sizes are bytes on disk rather than in memory, "
        "and the CPU is another one, so the milliseconds of the two lines do not compare.",
    },
    "README.ru.md": {
        "gain": "**Что я выигрываю и что теряю?** На **{cpu}** ({isa}), потоков: {threads}, за прямой проход "
        "и от JPEG до рамок:",
        "confirmed": "Каждое число этой таблицы подтверждено: на изображениях COCO val2017 ({images}), по "
        "готовому файлу и в пяти новых процессах (`make confirm`).",
        "units": "Δ – относительное изменение точности (mAP50-95); в скобках – интервалы 95 %. "
        "*Теряется не более* – с уверенностью 95 %. [Как читать таблицы](docs/tables.ru.md).",
        "unconfirmed": "Здесь ещё ничего не подтверждено: границы – по изображениям ({images}), скорости – "
        "по одному процессу. `make confirm` проверяет ещё раз, на 1000 изображений и в новых процессах.",
        "goal": "Цель",
        "take": "Что взять",
        "goals": {
            "size_ratio": "наименьший файл",
            "speedup": "наибольшая скорость",
            "both": "маленький и быстрый файл",
            0.01: "без потерь",
            0.03: "потеря ≤ 3 %",
        },
        "opponent": "без этого проекта: быстрейший экспорт без потерь",
        "nobody": "ни одна модель",
        "limit": "теряется не более, %",
        "pipeline": "× быстрее,<br>JPEG → рамки",
        "every": "Все цели. Цель достигнута, если потеря наверняка в её пределах (односторонняя граница "
        "95 %), а не по оценке; *без потерь* – граница 1 %.",
        "trust": "**Можно ли этому верить?** Таблицы ниже измерены на изображениях COCO val2017 ({images}), "
        "на которых ничего не калибровалось и не настраивалось. Каждая модель сравнивается с исходной на "
        "одних и тех же изображениях; интервалы получены по выборкам из них, для скорости – из пар, "
        "измеренных попеременно. Потеря в пределах шума, если её интервал доходит до 0: так у {same} моделей "
        "из {count}. Обычный интервал – ±{half} %; меньшие потери остаются незамеченными, а лучшая из многих "
        "моделей немного приукрашена: поэтому и нужно подтверждение. [Тесты](tests/test_accuracy.py) сверяют "
        "метрики с собственной валидацией ultralytics и с COCOeval.",
        "gallery": "Что видят исходная, наименьшая и самая быстрая модели (потеря ≤ 3 %), каждая названа над "
        "своим столбцом; подписаны только отличия",
        "pictured": "Рамки исходной и лучших моделей",
        "more": "В [results/report.html](results/report.html) – все столбцы всех запусков, с сортировкой и "
        "фильтром: скачайте и откройте в браузере.",
        "small": "**Почему не сеть, маленькая с самого начала?** В {least[size_mb]:.2f} МБ у "
        "{least[link]} mAP50-95 {least[map50_95]:.3f}, у {best[link]} в {best[size_mb]:.2f} МБ – "
        "{best[map50_95]:.3f}, {more}.",
        "small and fast": "На {cpu} ({isa}) {nano[link]} быстрее исходной в {nano[speedup]:.2f} раза, "
        "{fast[link]} – в {fast[speedup]:.2f} раза, при mAP50-95 {fast[map50_95]:.3f} против "
        "{nano[map50_95]:.3f}.",
        "all": "### Все эксперименты",
        "figures": {
            "pareto": "Две диаграммы: изменение mAP50-95 в зависимости от размера готовых файлов и от "
            "ускорения; модели, которых не превосходит ни одна другая, пронумерованы и перечислены",
            "forest": "Изменение mAP50-95 каждого эксперимента с интервалом 95 %, по домашним работам",
            "speed": "Ускорение каждого эксперимента с интервалом 95 %, по машинам",
        },
        "baseline": f"Исходная модель ({BASELINE})",
        "empty": "Запусков ещё нет: таблицу заполнит `make run HW=all`.",
        "machine": "На **{cpu}** ({isa}), потоков: {threads}; батч 1, 640×640; "
        "изображений COCO val2017: {images}.",
        "experiment": "Эксперимент",
        "ms": "CPU, мс: исходная → своя<br>вычисляется в",
        "times": "× быстрее",
        "milliseconds": "CPU, мс",
        "over": "× к {name}",
        "again": "подтверждено",
        "size": "МБ<br>(× меньше)",
        "zeros": "Нули, %",
        "reference": "эталон",
        "images": "изображений",
        "other": "На **{cpu}** ({isa}), потоков: {threads}: {found}. Все строки – в "
        "[отчёте](results/report.html).",
        "coco128": "### coco128: первая таблица и сейчас",
        "upper": "Верхняя строка – первая таблица, составленная вручную; нижняя, жирная – сейчас.",
        "changed": "Что изменилось: изображения вписываются в квадрат, а не в прямоугольник, это исходные "
        "JPEG, а не пережатые, размеры – байты на диске, а не в памяти, и CPU другой, поэтому "
        "миллисекунды двух строк несравнимы.",
    },
}
