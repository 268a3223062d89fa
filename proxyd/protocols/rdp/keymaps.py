"""What the keys of Windows keyboards type, for the screens drawn before there is a target.

A row has the keys of `KEYS` in their order, left to right and top to bottom. A key that types nothing is written as the
box, a dead key as its accent twice: it waits for the next key. Rows are: alone, with Shift, with AltGr, with both; where
Caps Lock does more than Shift does to letters, two more: with it, with it and Shift. An empty row types nothing.

The layouts are those of Windows, by their identifiers (CS_CORE keyboardLayout, MS-RDPBCGR 2.2.1.3.2). A session's process
holds no decoder and none of its tables, so these are its own; a test compares them key by key with the indexer's.
"""
# ruff: noqa: RUF001 - accents that look like quotes are what this is about

from __future__ import annotations

from typing import Final, NamedTuple

KEYS: Final = (
    0x29, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D,
    0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B,
    0x1E, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x2B,
    0x56, 0x2C, 0x2D, 0x2E, 0x2F, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x73,
)  # fmt: skip
"""Scancodes of the keys that type, row by row; 0x56 is beside the left Shift, 0x73 beside the right one (ABNT2)."""

NOTHING: Final = "□"


class Keymap(NamedTuple):
    """A layout as it is written here."""

    name: str
    alt_gr: bool  # the right Alt key is AltGr
    decimal: str  # of the number pad
    rows: tuple[str, ...]


_BELGIAN: Final = (
    "² & é \" ' ( § è ! ç à ) - a z e r t y u i o p ^^ $ q s d f g h j k l m ù µ < w x c v b n , ; : = □",
    "³ 1 2 3 4 5 6 7 8 9 0 ° _ A Z E R T Y U I O P ¨¨ * Q S D F G H J K L M % £ > W X C V B N ? . / + □",
    "□ | @ # { [ ^ □ □ { } □ □ □ □ € □ □ □ □ □ □ □ [ ] □ □ □ □ □ □ □ □ □ □ ´´ `` \\ □ □ □ □ □ □ □ □ □ ~~ □",
    "□ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ ´´ `` □ □ □ □ □ □ □ □ □ □ ~~ □",
    "² 1 2 3 4 5 6 7 8 9 0 ° _ A Z E R T Y U I O P ¨¨ * Q S D F G H J K L M % £ < W X C V B N ? . / + □",
    "³ & é \" ' ( § è ! ç à ) - a z e r t y u i o p ^^ $ q s d f g h j k l m ù µ > w x c v b n , ; : = □",
)  # the same keys whichever language it is sold for

KEYMAPS: Final[dict[int, Keymap]] = {
    0x00000405: Keymap(
        "Czech",
        True,
        ",",
        (
            "; + ě š č ř ž ý á í é = ´´ q w e r t z u i o p ú ) a s d f g h j k l ů § ¨¨ \\ y x c v b n m , . - □",
            "°° 1 2 3 4 5 6 7 8 9 0 % ˇˇ Q W E R T Z U I O P / ( A S D F G H J K L \" ! ' | Y X C V B N M ? : _ □",
            "□ ~ ˇˇ ^^ ˘˘ °° ˛˛ `` ˙˙ ´´ ˝˝ ¨¨ ¸¸ \\ | € □ □ □ □ □ □ □ ÷ × □ đ Đ [ ] □ □ ł Ł $ ß ¤ □ □ # & @ { } □ < > * □",
            "",
            "; + Ě Š Č Ř Ž Ý Á Í É = ´´ Q W E R T Z U I O P Ú ) A S D F G H J K L Ů § ¨¨ \\ Y X C V B N M , . - □",
            "°° 1 2 3 4 5 6 7 8 9 0 % ˇˇ q w e r t z u i o p / ( a s d f g h j k l \" ! ' | y x c v b n m ? : _ □",
        ),
    ),
    0x00000406: Keymap(
        "Danish",
        True,
        ",",
        (
            "½ 1 2 3 4 5 6 7 8 9 0 + ´´ q w e r t y u i o p å ¨¨ a s d f g h j k l æ ø ' < z x c v b n m , . - □",
            '§ ! " # ¤ % & / ( ) = ? `` Q W E R T Y U I O P Å ^^ A S D F G H J K L Æ Ø * > Z X C V B N M ; : _ □',
            "□ □ @ £ $ € □ { [ ] } □ | □ □ € □ □ □ □ □ □ □ □ ~~ □ □ □ □ □ □ □ □ □ □ □ □ \\ □ □ □ □ □ □ µ □ □ □ □",
            "",
        ),
    ),
    0x00000407: Keymap(
        "German",
        True,
        ",",
        (
            "^^ 1 2 3 4 5 6 7 8 9 0 ß ´´ q w e r t z u i o p ü + a s d f g h j k l ö ä # < y x c v b n m , . - □",
            "° ! \" § $ % & / ( ) = ? `` Q W E R T Z U I O P Ü * A S D F G H J K L Ö Ä ' > Y X C V B N M ; : _ □",
            "□ □ ² ³ □ □ □ { [ ] } \\ □ @ □ € □ □ □ □ □ □ □ □ ~ □ □ □ □ □ □ □ □ □ □ □ □ | □ □ □ □ □ □ µ □ □ □ □",
            "□ □ □ □ □ □ □ □ □ □ □ ẞ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □",
            "^^ ! \" § $ % & / ( ) = ? ´´ Q W E R T Z U I O P Ü * A S D F G H J K L Ö Ä ' < Y X C V B N M ; : - □",
            "° 1 2 3 4 5 6 7 8 9 0 ß `` q w e r t z u i o p ü + a s d f g h j k l ö ä # > y x c v b n m , . _ □",
        ),
    ),
    0x00000409: Keymap(
        "US English",
        False,
        ".",
        (
            "` 1 2 3 4 5 6 7 8 9 0 - = q w e r t y u i o p [ ] a s d f g h j k l ; ' \\ \\ z x c v b n m , . / □",
            '~ ! @ # $ % ^ & * ( ) _ + Q W E R T Y U I O P { } A S D F G H J K L : " | | Z X C V B N M < > ? □',
        ),
    ),
    0x0000040A: Keymap(
        "Spanish",
        True,
        ".",
        (
            "º 1 2 3 4 5 6 7 8 9 0 ' ¡ q w e r t y u i o p `` + a s d f g h j k l ñ ´´ ç < z x c v b n m , . - □",
            'ª ! " · $ % & / ( ) = ? ¿ Q W E R T Y U I O P ^^ * A S D F G H J K L Ñ ¨¨ Ç > Z X C V B N M ; : _ □',
            "\\ | @ # ~~ € ¬ □ □ □ □ □ □ □ □ € □ □ □ □ □ □ □ [ ] □ □ □ □ □ □ □ □ □ □ { } □ □ □ □ □ □ □ □ □ □ □ □",
            "",
        ),
    ),
    0x0000040B: Keymap(
        "Finnish",
        True,
        ",",
        (
            "§ 1 2 3 4 5 6 7 8 9 0 + ´´ q w e r t y u i o p å ¨¨ a s d f g h j k l ö ä ' < z x c v b n m , . - □",
            '½ ! " # ¤ % & / ( ) = ? `` Q W E R T Y U I O P Å ^^ A S D F G H J K L Ö Ä * > Z X C V B N M ; : _ □',
            "□ □ @ £ $ € □ { [ ] } \\ □ □ □ € □ □ □ □ □ □ □ □ ~~ □ □ □ □ □ □ □ □ □ □ □ □ | □ □ □ □ □ □ µ □ □ □ □",
            "",
        ),
    ),
    0x0000040C: Keymap(
        "French",
        True,
        ".",
        (
            "² & é \" ' ( - è _ ç à ) = a z e r t y u i o p ^^ $ q s d f g h j k l m ù * < w x c v b n , ; : ! □",
            "□ 1 2 3 4 5 6 7 8 9 0 ° + A Z E R T Y U I O P ¨¨ £ Q S D F G H J K L M % µ > W X C V B N ? . / § □",
            "□ □ ~~ # { [ | `` \\ ^ @ ] } □ □ € □ □ □ □ □ □ □ □ ¤ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □",
            "",
            "² 1 2 3 4 5 6 7 8 9 0 ° + A Z E R T Y U I O P ¨¨ £ Q S D F G H J K L M % µ < W X C V B N ? . / § □",
            "□ & é \" ' ( - è _ ç à ) = a z e r t y u i o p ^^ $ q s d f g h j k l m ù * > w x c v b n , ; : ! □",
        ),
    ),
    0x0000040E: Keymap(
        "Hungarian",
        True,
        ",",
        (
            "0 1 2 3 4 5 6 7 8 9 ö ü ó q w e r t z u i o p ő ú a s d f g h j k l é á ű í y x c v b n m , . - □",
            "§ ' \" + ! % / = ( ) Ö Ü Ó Q W E R T Z U I O P Ő Ú A S D F G H J K L É Á Ű Í Y X C V B N M ? : _ □",
            "□ ~ ˇˇ ^^ ˘˘ °° ˛˛ ` ˙˙ ´´ ˝˝ ¨¨ ¸¸ \\ | Ä □ □ □ € Í □ □ ÷ × ä đ Đ [ ] □ í ł Ł $ ß ¤ < > # & @ { } < ; > * □",
            "",
        ),
    ),
    0x00000410: Keymap(
        "Italian",
        True,
        ".",
        (
            "\\ 1 2 3 4 5 6 7 8 9 0 ' ì q w e r t y u i o p è + a s d f g h j k l ò à ù < z x c v b n m , . - □",
            '| ! " £ $ % & / ( ) = ? ^ Q W E R T Y U I O P é * A S D F G H J K L ç ° § > Z X C V B N M ; : _ □',
            "□ □ □ □ □ € □ □ □ □ □ □ □ □ □ € □ □ □ □ □ □ □ [ ] □ □ □ □ □ □ □ □ □ @ # □ □ □ □ □ □ □ □ □ □ □ □ □",
            "□ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ { } □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □",
        ),
    ),
    0x00000413: Keymap(
        "Dutch",
        True,
        ",",
        (
            "@ 1 2 3 4 5 6 7 8 9 0 / ° q w e r t y u i o p ¨¨ * a s d f g h j k l + ´´ < ] z x c v b n m , . - □",
            "§ ! \" # $ % & _ ( ) ' ? ~~ Q W E R T Y U I O P ^^ | A S D F G H J K L ± `` > [ Z X C V B N M ; : = □",
            "¬ ¹ ² ³ ¼ ½ ¾ £ { } □ \\ ¸¸ □ □ € ¶ □ □ □ □ □ □ □ □ □ ß □ □ □ □ □ □ □ □ □ □ ¦ « » ¢ □ □ □ µ □ · □ □",
            "",
        ),
    ),
    0x00000414: Keymap(
        "Norwegian",
        True,
        ",",
        (
            "| 1 2 3 4 5 6 7 8 9 0 + \\ q w e r t y u i o p å ¨¨ a s d f g h j k l ø æ ' < z x c v b n m , . - □",
            '§ ! " # ¤ % & / ( ) = ? `` Q W E R T Y U I O P Å ^^ A S D F G H J K L Ø Æ * > Z X C V B N M ; : _ □',
            "□ □ @ £ $ € □ { [ ] } □ ´´ □ □ € □ □ □ □ □ □ □ □ ~~ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ µ □ □ □ □",
            "",
        ),
    ),
    0x00000415: Keymap(
        "Polish",
        True,
        ",",
        (
            "` 1 2 3 4 5 6 7 8 9 0 - = q w e r t y u i o p [ ] a s d f g h j k l ; ' \\ \\ z x c v b n m , . / □",
            '~~ ! @ # $ % ^ & * ( ) _ + Q W E R T Y U I O P { } A S D F G H J K L : " | | Z X C V B N M < > ? □',
            "□ □ □ □ □ □ □ □ □ □ □ □ □ □ □ ę □ □ □ € □ ó □ □ □ ą ś □ □ □ □ □ □ ł □ □ □ □ ż ź ć □ □ ń □ □ □ □ □",
            "□ □ □ □ □ □ □ □ □ □ □ □ □ □ □ Ę □ □ □ □ □ Ó □ □ □ Ą Ś □ □ □ □ □ □ Ł □ □ □ □ Ż Ź Ć □ □ Ń □ □ □ □ □",
        ),
    ),
    0x00000416: Keymap(
        "Brazilian Portuguese",
        True,
        ",",
        (
            "' 1 2 3 4 5 6 7 8 9 0 - = q w e r t y u i o p ´´ [ a s d f g h j k l ç ~~ ] \\ z x c v b n m , . ; /",
            '" ! @ # $ % ¨¨ & * ( ) _ + Q W E R T Y U I O P `` { A S D F G H J K L Ç ^^ } | Z X C V B N M < > : ?',
            "□ ¹ ² ³ £ ¢ ¬ □ □ □ □ □ § / ? ° □ □ □ □ □ □ □ □ ª □ □ □ □ □ □ □ □ □ □ □ º □ □ □ ₢ □ □ □ □ □ □ □ °",
            "",
        ),
    ),
    0x0000041D: Keymap(
        "Swedish",
        True,
        ",",
        (
            "§ 1 2 3 4 5 6 7 8 9 0 + ´´ q w e r t y u i o p å ¨¨ a s d f g h j k l ö ä ' < z x c v b n m , . - □",
            '½ ! " # ¤ % & / ( ) = ? `` Q W E R T Y U I O P Å ^^ A S D F G H J K L Ö Ä * > Z X C V B N M ; : _ □',
            "□ □ @ £ $ € □ { [ ] } \\ □ □ □ € □ □ □ □ □ □ □ □ ~~ □ □ □ □ □ □ □ □ □ □ □ □ | □ □ □ □ □ □ µ □ □ □ □",
            "",
        ),
    ),
    0x0000041F: Keymap(
        "Turkish Q",
        True,
        ",",
        (
            '" 1 2 3 4 5 6 7 8 9 0 * - q w e r t y u ı o p ğ ü a s d f g h j k l ş i , < z x c v b n m ö ç . □',
            "é ! ' ^^ + % & / ( ) = ? _ Q W E R T Y U I O P Ğ Ü A S D F G H J K L Ş İ ; > Z X C V B N M Ö Ç : □",
            "< > £ # $ ½ □ { [ ] } \\ | @ □ € □ ₺ □ □ i □ □ ¨¨ ~~ æ ß □ □ □ □ □ □ □ ´´ □ `` | □ □ □ □ □ □ □ □ □ □ □",
            "□ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ İ □ □ □ □ Æ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □",
            '" 1 2 3 4 5 6 7 8 9 0 * - Q W E R T Y U I O P Ğ Ü A S D F G H J K L Ş İ , < Z X C V B N M Ö Ç . □',
            "é ! ' ^^ + % & / ( ) = ? _ q w e r t y u ı o p ğ ü a s d f g h j k l ş i ; > z x c v b n m ö ç : □",
        ),
    ),
    0x00000807: Keymap(
        "Swiss German",
        True,
        ".",
        (
            "§ 1 2 3 4 5 6 7 8 9 0 ' ^^ q w e r t z u i o p ü ¨¨ a s d f g h j k l ö ä $ < y x c v b n m , . - □",
            '° + " * ç % & / ( ) = ? `` Q W E R T Z U I O P è ! A S D F G H J K L é à £ > Y X C V B N M ; : _ □',
            "□ ¦ @ # ° § ¬ | ¢ □ □ ´´ ~~ □ □ € □ □ □ □ □ □ □ [ ] □ □ □ □ □ □ □ □ □ □ { } \\ □ □ □ □ □ □ □ □ □ □ □",
            "",
            "§ 1 2 3 4 5 6 7 8 9 0 ' ^^ Q W E R T Z U I O P Ü ¨¨ A S D F G H J K L Ö Ä $ < Y X C V B N M , . - □",
            '° + " * ç % & / ( ) = ? `` q w e r t z u i o p È ! a s d f g h j k l É À £ > y x c v b n m ; : _ □',
        ),
    ),
    0x00000809: Keymap(
        "UK English",
        True,
        ".",
        (
            "` 1 2 3 4 5 6 7 8 9 0 - = q w e r t y u i o p [ ] a s d f g h j k l ; ' # \\ z x c v b n m , . / □",
            '¬ ! " £ $ % ^ & * ( ) _ + Q W E R T Y U I O P { } A S D F G H J K L : @ ~ | Z X C V B N M < > ? □',
            "¦ □ □ □ € □ □ □ □ □ □ □ □ □ □ é □ □ □ ú í ó □ □ □ á □ □ □ □ □ □ □ □ □ □ \\ □ □ □ □ □ □ □ □ □ □ □ □",
            "□ □ □ □ □ □ □ □ □ □ □ □ □ □ □ É □ □ □ Ú Í Ó □ □ □ Á □ □ □ □ □ □ □ □ □ □ | □ □ □ □ □ □ □ □ □ □ □ □",
        ),
    ),
    0x0000080A: Keymap(
        "Latin American",
        True,
        ".",
        (
            "| 1 2 3 4 5 6 7 8 9 0 ' ¿ q w e r t y u i o p ´´ + a s d f g h j k l ñ { } < z x c v b n m , . - □",
            '° ! " # $ % & / ( ) = ? ¡ Q W E R T Y U I O P ¨¨ * A S D F G H J K L Ñ [ ] > Z X C V B N M ; : _ □',
            "¬ □ □ □ □ □ □ □ □ □ □ \\ □ @ □ □ □ □ □ □ □ □ □ □ ~ □ □ □ □ □ □ □ □ □ □ ^^ `` □ □ □ □ □ □ □ □ □ □ □ □",
            "",
        ),
    ),
    0x0000080C: Keymap(
        "Belgian French",
        True,
        ".",
        _BELGIAN,
    ),
    0x00000813: Keymap(
        "Belgian Dutch",
        True,
        ".",
        _BELGIAN,
    ),
    0x00000816: Keymap(
        "Portuguese",
        True,
        ".",
        (
            "\\ 1 2 3 4 5 6 7 8 9 0 ' « q w e r t y u i o p + ´´ a s d f g h j k l ç º ~~ < z x c v b n m , . - □",
            '| ! " # $ % & / ( ) = ? » Q W E R T Y U I O P * `` A S D F G H J K L Ç ª ^^ > Z X C V B N M ; : _ □',
            "□ □ @ £ § € □ { [ ] } □ □ □ □ € □ □ □ □ □ □ □ ¨¨ ] □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □ □",
            "",
        ),
    ),
    0x00000C0C: Keymap(
        "Canadian French",
        True,
        ".",
        (
            "° 1 2 3 4 5 6 7 8 9 0 - = q w e r t y u i o p ^^ ç a s d f g h j k l ; è à ù z x c v b n m , . é □",
            "° ! \" # $ % ? & * ( ) _ + Q W E R T Y U I O P ^^ Ç A S D F G H J K L : È À Ù Z X C V B N M ' . É □",
            "¬ ¹ @ ³ ¼ ½ ¾ { [ ] } | ¸¸ □ □ □ ¶ □ ¥ □ □ ø þ ° ~ æ ß ð ª □ □ □ □ □ ´´ □ `` \\ « » ¢ □ □ □ µ < > / □",
            "□ ¡ ² £ ¤ □ □ □ □ ± □ ¿ □ □ □ □ ® □ □ □ □ Ø Þ □ ¨¨ Æ § Ð □ □ □ □ □ □ ´´ □ `` | □ □ © □ □ □ º □ □ □ □",
        ),
    ),
    0x0000100C: Keymap(
        "Swiss French",
        True,
        ".",
        (
            "§ 1 2 3 4 5 6 7 8 9 0 ' ^^ q w e r t z u i o p è ¨¨ a s d f g h j k l é à $ < y x c v b n m , . - □",
            '° + " * ç % & / ( ) = ? `` Q W E R T Z U I O P ü ! A S D F G H J K L ö ä £ > Y X C V B N M ; : _ □',
            "□ ¦ @ # ° § ¬ | ¢ □ □ ´´ ~~ □ □ € □ □ □ □ □ □ □ [ ] □ □ □ □ □ □ □ □ □ □ { } \\ □ □ □ □ □ □ □ □ □ □ □",
            "",
        ),
    ),
    0x00010416: Keymap(
        "Brazilian Portuguese, ABNT2",
        True,
        ",",
        (
            "' 1 2 3 4 5 6 7 8 9 0 - = q w e r t y u i o p ´´ [ a s d f g h j k l ç ~~ ] \\ z x c v b n m , . ; /",
            '" ! @ # $ % ¨¨ & * ( ) _ + Q W E R T Y U I O P `` { A S D F G H J K L Ç ^^ } | Z X C V B N M < > : ?',
            "□ ¹ ² ³ £ ¢ ¬ □ □ □ □ □ § / ? ° □ □ □ □ □ □ □ □ ª □ □ □ □ □ □ □ □ □ □ □ º □ □ □ ₢ □ □ □ □ □ □ □ °",
            "",
        ),
    ),
    0x00020409: Keymap(
        "US English, international",
        True,
        ".",
        (
            "`` 1 2 3 4 5 6 7 8 9 0 - = q w e r t y u i o p [ ] a s d f g h j k l ; '' \\ \\ z x c v b n m , . / □",
            '~~ ! @ # $ % ^^ & * ( ) _ + Q W E R T Y U I O P { } A S D F G H J K L : "" | | Z X C V B N M < > ? □',
            "□ ¡ ² ³ ¤ € ¼ ½ ¾ ‘ ’ ¥ × ä å é ® þ ü ú í ó ö « » á ß ð □ □ □ □ □ ø ¶ ´ ¬ □ æ □ © □ □ ñ µ ç □ ¿ □",
            "□ ¹ □ □ £ □ □ □ □ □ □ □ ÷ Ä Å É □ Þ Ü Ú Í Ó Ö □ □ Á § Ð □ □ □ □ □ Ø ° ¨ ¦ □ Æ □ ¢ □ □ Ñ □ Ç □ □ □",
        ),
    ),
}
