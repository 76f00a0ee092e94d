"""Words for the names and texts of demonstration files, in several languages and scripts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """The words of one language."""

    code: str  # ISO 639-1
    share: int  # of all files, relative to the other languages' shares
    common: tuple[str, ...]  # function words, most frequent first
    subjects: tuple[str, ...]  # what documents are called, and about
    stems: tuple[str, ...]  # with the endings, the long tail of rarer words
    endings: tuple[str, ...]
    gap: str = " "  # between words; "" in Chinese, Japanese and Thai
    stop: str = "."


def _language(code: str, share: int, *words: str, gap: str = " ", stop: str = ".") -> Language:
    common, subjects, stems, endings = (tuple(text.split()) for text in words)
    return Language(code, share, common, subjects, stems, endings, gap, stop)


LANGUAGES = (
    _language(
        "en",
        34,
        "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they"
        " which one you were all her she there would their we him been has when who will no more if out so up said"
        " what its about than into them can only other time new some could these two may first then do any like my"
        " now over such our man me even most made after also did many must before through years",
        "report invoice contract budget plan minutes agenda proposal summary offer receipt statement application"
        " schedule presentation manual guide notes letter certificate insurance mortgage recipe holiday garden kitchen"
        " bicycle birthday wedding passport warranty newsletter survey analysis forecast inventory shipment payroll"
        " training onboarding roadmap architecture specification thesis lecture homework choir orchestra museum"
        " harbour mountain river forest weather election harvest bakery library hospital laboratory telescope volcano",
        "account admin anchor balance bright build cargo chart circle climate cloud coast collect compass connect copper"
        " crystal current decade defend deliver design dialog distance draft eastern ember engine estate fabric famous"
        " feather fellow fiction filter finder flower format fortune garnet gentle glacier govern granite harvest hollow"
        " horizon imagin impact indigo insist jacket journey kernel ladder lantern legend lemon limit magnet marble",
        "s ed ing er ers ly ness ment ation able ful less ship hood wise ward like ish ity ism",
    ),
    _language(
        "de",
        18,
        "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat"
        " dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis"
        " mehr durch man sein wurde sei hatte kann gegen vom können schon wenn habe seine ihre dann unter wir soll ich"
        " eines jahr zwei jahren diese dieser wieder keine uhr seiner worden will zwischen immer was sagte",
        "Rechnung Vertrag Angebot Bericht Protokoll Haushalt Versicherung Kündigung Steuererklärung Mietvertrag"
        " Lieferschein Gutachten Bescheid Zeugnis Bewerbung Lebenslauf Einladung Kochrezept Urlaub Geburtstag Hochzeit"
        " Grundriss Bauplan Straßenkarte Prüfung Übersicht Jahresabschluss Gehaltsabrechnung Schulung Besprechung"
        " Baustelle Garten Küche Fahrrad Bücherliste Chor Museum Hafen Gebirge Wald Ernte Bäckerei Krankenhaus",
        "Arbeit Bahn Bau Berg Bild Blick Brücken Daten Dorf Druck Energie Fach Farb Feld Fenster Forschung Frei Führung"
        " Gebäude Geschäft Gesund Grenz Grund Handel Haupt Holz Klima Kraft Kultur Kunst Land Leistung Licht Luft Markt"
        " Netz Papier Planung Raum Rechts Richt Schiff Schul Sicht Sonder Sprach Stadt Stein Technik Umwelt Verkehr",
        "amt anlage ausschuss dienst frage gebiet gesetz haus karte kosten lage leitung linie mittel ordnung plan recht"
        " sache schutz stelle system teil träger verein vertrag wesen zahl zeit ziel zug",
    ),
    _language(
        "fr",
        10,
        "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la avec son mais"
        " comme ou si leur y dont aux cette ont ses sans deux été nous même elle fait après être entre sa ces encore"
        " aussi peut tout on était ils bien peu avant depuis contre sous très leurs tous autre fois année toujours",
        "facture contrat devis rapport procès-verbal budget assurance attestation relevé déclaration bail candidature"
        " invitation recette vacances anniversaire mariage plan cuisine vélo bibliothèque forêt montagne récolte"
        " boulangerie hôpital château élection météo présentation formation bulletin inventaire livraison mémoire",
        "accord admir ajout anim annonc appel assur avanc balanc batail caval chang charg chant color command compos"
        " confi couvert découv défend demand détach donn échang éclair élev enferm épreuv étud façon flott fond form",
        "er é ée és ées ant ation ement eur euse age able ité isme iste ure oir ons aient",
    ),
    _language(
        "es",
        9,
        "de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me si sin sobre"
        " este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde está mi porque qué sólo"
        " han yo hay vez puede todos así nos ni parte tiene él uno donde bien tiempo mismo ese ahora cada vida otro",
        "factura contrato presupuesto informe acta seguro certificado recibo declaración alquiler solicitud invitación"
        " receta vacaciones cumpleaños boda plano cocina bicicleta biblioteca bosque montaña cosecha panadería hospital"
        " castillo elección presentación formación boletín inventario envío tesis niño año español",
        "acept acomod afirm ajust alcanz anim aplic asegur avanz balanz cambi camin cant cas cerr color compr concentr"
        " confi conserv cruz declar defend dese dibuj educ empez encontr escrib esper estudi explic firm form funcion",
        "ar ado ada ados adas ando ación aciones mente able idad ismo ista ura oso osa aron aba",
    ),
    _language(
        "ru",
        8,
        "и в не на я быть он с что а по это она этот к но они мы весь который из у который то за свой что от так о для ты"
        " же все тот мочь вы человек такой его сказать только или ещё бы себя один как уже до время если сам когда другой"
        " говорить наш мой знать стать при чтобы дело жизнь кто первый очень два день её новый рука даже во раз где там",
        "счёт договор отчёт протокол смета предложение справка накладная заявление диплом резюме приглашение рецепт"
        " отпуск фотографии квартира ремонт велосипед библиотека лес горы урожай больница выборы погода презентация"
        " обучение инвентаризация доставка диссертация лекция музей оркестр",
        "берег больш быстр вер вод воздух врем голов город двор дерев дорог друж земл зим книг корабл крас круг лет"
        " лист люб мест мир молод мор народ небес ноч огн пол правд праздн работ рек род свет сил слов снег",
        "ный ная ное ные ость ение ания ами ник ница ский ская ство чик ать ить ого ому ями",
    ),
    _language(
        "it",
        4,
        "di e il la che in un a per è una sono con non si da come le dei nel più alla anche del ha lo al ma gli delle della"
        " i su se questo o ci tra dalla essere nella ai stato loro due anni quando suo dopo prima molto tutti hanno",
        "fattura contratto preventivo relazione verbale assicurazione certificato ricevuta dichiarazione affitto ricetta"
        " vacanze compleanno matrimonio pianta cucina bicicletta biblioteca montagna raccolto ospedale castello",
        "abbandon acquist affid aggiung ammir annunci appart ascolt aspett avanz cambi camer cant cerc chiam color compr",
        "are ato ata ati ate ando zione zioni mente abile ità ismo ista ura oso osa",
    ),
    _language(
        "ja",
        6,
        "の に は を た が で て と し れ さ ある いる も する から な こと として い や など なっ ない この ため その あっ"
        " よう また もの という あり まで られ なる へ か だ これ によって により おり より による ず なり",
        "請求書 契約書 見積書 報告書 議事録 予算 計画 提案書 領収書 申請書 履歴書 招待状 写真 旅行 誕生日 結婚式 料理"
        " 自転車 図書館 病院 選挙 天気 東京都庁 新宿 京都 富士山 研修資料 在庫一覧 取扱説明書 議題",
        "会社 学校 電車 世界 時間 問題 社会 経済 研究 開発 情報 技術 文化 歴史 自然 環境 教育 政治 国際 市場 生活 音楽",
        "的 性 化 者 員 部 課 会 力 学 書 館 店 家 人 地 方 法 品 物",
        gap="",
        stop="。",
    ),
    _language(
        "zh",
        5,
        "的 一 是 在 不 了 有 和 人 这 中 大 为 上 个 国 我 以 要 他 时 来 用 们 生 到 作 地 于 出 就 分 对 成 会 可 主 发 年 动"
        " 同 工 也 能 下 过 子 说 产 种 面 而 方 后 多 定 行 学 法 所",
        "发票 合同 预算 报告 会议纪要 计划 方案 收据 申请表 简历 邀请函 照片 旅行 生日 婚礼 菜谱 自行车 图书馆 医院 选举"
        " 天气 北京 上海 长城 培训资料 库存清单 说明书 论文 讲义 博物馆",
        "公司 学校 火车 世界 时间 问题 社会 经济 研究 开发 信息 技术 文化 历史 自然 环境 教育 政治 国际 市场 生活 音乐",
        "性 化 者 员 部 会 力 学 书 馆 店 家 地 法 品 物 率 量 机 器",
        gap="",
        stop="。",
    ),
    _language(
        "ar",
        3,
        "في من على أن إلى التي عن لا ما هذا هذه الذي كان مع كل بعد ذلك قد بين لم وقد غير أو كما حتى إذا عند كانت هو هي"
        " لكن ثم أي منذ خلال حيث أكثر يوم عام أحد قبل دون فقط ولا",
        "فاتورة عقد تقرير ميزانية خطة محضر عرض إيصال طلب شهادة سيرة دعوة وصفة عطلة صور زفاف مطبخ دراجة مكتبة مستشفى"
        " انتخابات طقس متحف رسالة محاضرة",
        "كتاب مدرس عمل سفر بيت شارع مدين جبل بحر سماء أرض شمس قمر نهر شجر باب نافذ صديق عالم تاريخ",
        "ات ين ون ية ها هم نا كم تان",
    ),
    _language(
        "ko",
        2,
        "이 그 저 것 수 등 들 및 에서 하는 있는 한 할 위해 대한 그리고 또는 하지만 많은 모든 다른 같은 우리 새로운",
        "청구서 계약서 보고서 예산 계획 회의록 제안서 영수증 신청서 이력서 초대장 사진 여행 생일 결혼식 요리 자전거 도서관"
        " 병원 선거 날씨 박물관",
        "학교 회사 시간 문제 사회 경제 연구 개발 정보 기술 문화 역사 자연 환경 교육 정치 국제 시장 생활 음악",
        "은 는 을 를 의 에 로 와 과 도 만 까지 부터 에게",
    ),
    _language(
        "th",
        1,
        "ที่ และ ใน เป็น ของ การ มี ได้ ว่า จะ ไม่ ให้ กับ มา จาก นี้ ไป ก็ คน แต่ หรือ ความ โดย อยู่ ต้อง แล้ว ปี วัน",
        "ใบแจ้งหนี้ สัญญา รายงาน งบประมาณ แผนงาน ใบเสร็จ ใบสมัคร ภาพถ่าย วันเกิด งานแต่งงาน อาหาร จักรยาน ห้องสมุด โรงพยาบาล",
        "โรงเรียน บริษัท เวลา ปัญหา สังคม เศรษฐกิจ วิจัย พัฒนา ข้อมูล วัฒนธรรม ธรรมชาติ ตลาด ชีวิต ดนตรี",
        "ใหม่ เก่า ใหญ่ เล็ก ดี มาก น้อย",
        gap="",
        stop=" ",
    ),
)

_FOLDERS = (
    "Archive Backup Clients Contracts Design Family Finance Holidays Invoices Legal Marketing Music Old Personal Photos"
    " Press Private Projects Receipts Research Sales School Scans Shared Support Taxes Team Temp Templates Travel Videos"
    " Website Work Kunden Rechnungen Verträge Fotos Urlaub Familie Steuer Projekte Entwürfe Dokumente Verwaltung Clients-FR"
    " Factures Contrats Vacances Famille Impôts Facturas Contratos Fotografías Vacaciones Документы Договоры Фотографии"
    " Отпуск 写真 契約書 請求書 旅行 家族 合同 发票 照片 项目 عقود صور فواتير 계약서 사진"
)

FOLDERS = tuple(_FOLDERS.split())

# Most frequent first.
_TAGS = (
    "work important family holiday invoice 2023 2024 draft final private photo tax client print archive todo urgent travel"
    " school legal contract paid review summer winter birthday wedding garden house car insurance bank health recipe music"
    " project-x project-y marketing press website logo scan receipt wichtig Steuer Urlaub Familie erledigt Rechnung vacances"
    " impôts famille trabajo viaje отпуск семья 重要 家族 仕事 旅行 工作 照片 عائلة"
)

TAGS = tuple(_TAGS.split())

# Maker, model and what a name from it looks like (d: a digit, T: date and time).
CAMERAS = (
    ("Canon", "EOS R6", "IMG_dddd.JPG"),
    ("Canon", "EOS 80D", "_MG_dddd.CR2"),
    ("NIKON CORPORATION", "NIKON Z 6", "DSC_dddd.JPG"),
    ("SONY", "ILCE-7M3", "DSC0dddd.ARW"),
    ("FUJIFILM", "X-T4", "DSCFdddd.JPG"),
    ("Panasonic", "DMC-GX80", "P10ddddd.JPG"),
    ("Apple", "iPhone 13", "IMG_dddd.HEIC"),
    ("Apple", "iPhone 15 Pro", "IMG_Edddd.JPG"),
    ("Google", "Pixel 7", "PXL_T.jpg"),
    ("samsung", "SM-G991B", "T.jpg"),
    ("HUAWEI", "ANE-LX1", "IMG_T.jpg"),
)
