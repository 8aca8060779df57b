"""A few rows of annotation files in the form that their publishers give them, and where that was seen."""

from __future__ import annotations

import json

# Something-Something V2, labels/train.json and validation.json of the publisher's download (20BN, now Qualcomm),
# rows as quoted in a public guide to action recognition sets; ids and classes agree with MMAction's validation list.
SSV2_ROWS = json.dumps(
    [
        {
            "id": "74225",
            "label": "spinning cube that quickly stops spinning",
            "template": "Spinning [something] that quickly stops spinning",
            "placeholders": ["cube"],
        },
        {
            "id": "116154",
            "label": "showing clay box on top of wallet",
            "template": "Showing [something] on top of [something]",
            "placeholders": ["clay box", "wallet"],
        },
        {
            "id": "36585",
            "label": "plastic falling like a feather or paper",
            "template": "[Something] falling like a feather or paper",
            "placeholders": ["plastic"],
        },
    ]
)
SSV2_TEST_ROWS = '[\n{"id":"1420"},\n{"id":"166429"}\n]'

# WebVid: four rows of results_2M_val.csv (github.com/m-bain/webvid, as kept in github.com/kanik155/webvid), addresses
# shortened; two of them again with the columns of WebVid-10M (huggingface.co/datasets/TempoFunk/webvid-10M).
WEBVID_2M = """videoid,name,page_idx,page_dir,duration,contentUrl
1053841541,Travel blogger shoot a story on top of mountains. young man holds camera in forest.,27732,027701_027750,PT00H00M17S,https://ak.picdn.net/shutterstock/videos/1053841541/preview/x.mp4
5641526,Horse grazing - seperated on green screen,28620,054101_054150,PT00H00M24S,https://ak.picdn.net/shutterstock/videos/5641526/preview/x.mp4
1020335461,"Moroccan flag waving in the wind in medieval town essaouira, morocco",873,000851_000900,PT00H00M05S,https://ak.picdn.net/shutterstock/videos/1020335461/preview/x.mp4
1019039938,City traffic lights. blurred view,22404,022401_022450,PT00H00M13S,https://ak.picdn.net/shutterstock/videos/1019039938/preview/x.mp4
"""
WEBVID_10M = """videoid,contentUrl,duration,page_dir,name
1053841541,https://ak.picdn.net/shutterstock/videos/1053841541/preview/x.mp4,PT00H00M17S,027701_027750,Travel blogger shoot a story on top of mountains. young man holds camera in forest.
1019039938,https://ak.picdn.net/shutterstock/videos/1019039938/preview/x.mp4,PT00H00M13S,022401_022450,City traffic lights. blurred view
"""  # noqa: E501

# CC3M: two captions in the form of Train_GCC-training.tsv (ai.google.com/research/ConceptualCaptions), no header;
# addresses shortened.
CC3M_TSV = (
    "a very typical bus station\thttp://lh6.ggpht.com/IMG_3422.JPG\n"
    "interior design of modern living room with fireplace in a new house\thttps://image.shutterstock.com/z/x.jpg\n"
)

# COCO 2014, in the form of annotations/captions_val2014.json (cocodataset.org/#format-data), cut to what matters.
COCO_CAPTIONS = json.dumps(
    {
        "info": {"description": "COCO 2014 Dataset", "year": 2014},
        "images": [
            {"license": 3, "file_name": "COCO_val2014_000000391895.jpg", "height": 360, "width": 640, "id": 391895},
            {"license": 4, "file_name": "COCO_val2014_000000522418.jpg", "height": 480, "width": 640, "id": 522418},
            {"license": 1, "file_name": "COCO_val2014_000000184613.jpg", "height": 336, "width": 500, "id": 184613},
        ],
        "licenses": [{"id": 1, "name": "Attribution-NonCommercial-ShareAlike License"}],
        "annotations": [
            {"image_id": 391895, "id": 770337, "caption": "A man with a red helmet on a small moped on a dirt road. "},
            {"image_id": 522418, "id": 681330, "caption": "A woman wearing a net on her head cutting a cake. "},
            {"image_id": 391895, "id": 771687, "caption": "Man riding a motor bike on a dirt road on the countryside."},
        ],
    }
)

# The annotation files of VindLU and UMT: json for multi_modality/dataset/caption_dataset.py (github.com/OpenGVLab/
# unmasked_teacher), and the table that preprocess/create_sqlite_db.py (InternVideo2, VindLU) makes of it.
UMT_JSON = json.dumps(
    [
        {"video": "027701_027750/1053841541.mp4", "caption": "Travel blogger shoot a story on top of mountains."},
        {"video": "022401_022450/1019039938.mp4", "caption": ["City traffic lights.", "blurred view"]},
    ]
)
UMT_SQLITE = "CREATE TABLE IF NOT EXISTS `annos` (`id` integer PRIMARY KEY, `{column}` text, `caption` text)"

# CC12M: two rows in the form of cc12m.tsv (github.com/google-research-datasets/conceptual-12m), address and caption, no
# header; addresses shortened.
CC12M_TSV = (
    "https://chewtown.com/wp-content/uploads/curry.jpg\tMetal prints of <PERSON> from Thai Curry Soup\n"
    "https://i.pinimg.com/a.jpg\tA butterfly on a leaf, with a tab's width of sky\n"
)

# SBU: the form of sbu-captions-all.json, columns as lists (as vicenteor/sbu_captions on the Hugging Face hub reads it);
# the same addresses and captions are the lines of SBU_captioned_photo_dataset_{urls,captions}.txt.
SBU_JSON = json.dumps(
    {
        "image_urls": [
            "http://static.flickr.com/2723/4385058960_b0f291553e.jpg",
            "http://static.flickr.com/3326/3596303505_3ce4c20529.jpg",
        ],
        "captions": ["A wooden chair in the living room", "Little girl in the blue dress"],
        "user_ids": ["47889917@N08", "12345678@N00"],
    }
)

# Visual Genome, region_descriptions.json of version 1.2 and later: two images, of which the regions are cut to three.
VG_REGIONS = json.dumps(
    [
        {
            "id": 1,
            "regions": [
                {"region_id": 1382, "width": 82, "height": 139, "image_id": 1, "phrase": "the clock is green in colour",
                 "y": 57, "x": 421},
                {"region_id": 1383, "width": 182, "height": 213, "image_id": 1, "phrase": "shade is along the street ",
                 "y": 372, "x": 194},
                {"region_id": 1384, "width": 61, "height": 36, "image_id": 1, "phrase": "the clock is green in colour",
                 "y": 491, "x": 241},
            ],
        },
        {"id": 2407890, "regions": []},
    ]
)  # fmt: skip
