"""Train a detector on labelled frames. Edit the variables below, or set them: python _train.py batch_size=8 lr=5e-4

Run it again to resume; delete net.pt, optim.pt and iter.txt to start afresh, or give the next run a run_name. See the
curves in curves.png, or with start_tb.
"""

from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, run

# data
konohana_dataset_path = 'toy_show'  # your dataset's folder; toy_show is drawn when it is not there
extra_dataset_path = ''  # a second dataset whose train split is learned too ('' for none)
train_split = 'train'  # what is learned
val_split = 'val'  # what the network is judged by ('' for no evaluation)
ignore_class = IGNORE_CLASS  # boxes of this name mark regions where nothing is learned or counted
skip_bad_files = False  # go on without files that have problems, instead of stopping

# network
detector = 'konohana'  # which network: konohana, yolof, solov2_light_r18, fasterrcnn_resnet50_fpn_v2, ...
img_hw = (360, 640)  # height and width that frames are resized to inside the network
use_res2block = False  # Res2Net's blocks; the files are then net_det3.pt, optim_det3.pt, iter_det3.txt
attention = 'se'  # what weighs channels in the flagship's blocks: se, coordinate or none
activation = 'relu6'  # of the flagship: relu6, hardswish, relu, silu, mish, gelu or acon
backbone = 'resnet50'  # of YOLOF: any network of torchvision, or of timm, that gives feature maps
frozen_stages = 1  # of SOLOv2's ResNet: 1 keeps the stem and the first stage as they are, 0 trains all of it
norm_eval = True  # batch norms of SOLOv2's ResNet keep their averages while training
init_from = ''  # weights to start from, e.g. 'weights/net.pt'
pretrained = None  # start from published weights: True (COCO) or 'backbone' (ImageNet), for detectors that have them

# training
batch_size = 16  # frames in a batch, of all processes together
accumulate = 1  # batches to sum up before a step, for small memory
n_epoch = 22  # how often each frame is seen; raise it where frames are few
max_minutes = 0.0  # minutes to train instead of n_epoch, evaluation not counted; 0 for n_epoch
lr = 1e-3  # learning rate after warm-up
warmup_epochs = 1.0  # epochs in which the learning rate rises
weight_decay = 0.05  # of AdamW
backbone_lr = 0.3  # a backbone that does not start from nothing learns at this part of lr
clip_norm = 10.0  # gradients are clipped to this norm
ema_decay = 0.998  # of the moving average of weights that is tested
vram_limit_gib = 3.0  # cap on this process's GPU memory, 0 for none
amp = True  # half precision where it is safe, on CUDA and on CPUs with AMX
repeat_rare = 0.05  # frames with names that fewer than this part of the frames hold come up to twice, 0 for none
small_part = 0.65  # this first part of training sees frames at two thirds of img_hw: quicker (flagship, YOLOF)
group_by_aspect = False  # pictures higher than wide get batches of their own, with img_hw turned upright
seed = 0  # the same seed on the same machine gives the same run

# augmentation
augment = True  # False turns all of it off
flip = 0.5  # probability of mirroring left and right
scale = (0.75, 1.6)  # frames are scaled by a random factor between these
shift = True  # and put at a random place
colour = 0.4  # strength of brightness, contrast and saturation jitter, 0 for none
hue = 0.0  # jitter of the hue, 0 to 0.5
mosaic = False  # half of the samples are made of four frames
paste = 0.5  # probability that one or two characters, cut out of other frames, are pasted into a frame
random_erasing = 0.0  # probability that a rectangle is erased
trivial_augment = False  # TrivialAugment's changes of colour and sharpness, instead of colour and hue
no_augment_part = 0.0  # this last part of training sees frames as they are, but for flip; 0 for none

# running
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
num_workers = 2  # processes that load frames, 0 for none
eval_every = 2  # epochs between evaluations on val
save_minutes = 3.0  # minutes between saves (also after each epoch)
run_name = ''  # keeps everything of the run in <log_path>/<run_name>, instead of checkpoint_path
checkpoint_path = '.'  # folder of net.pt, optim.pt, iter.txt, net_best.pt
log_path = 'logs'  # folder of TensorBoard's logs and curves.png
progress = True  # show progress bars

ALIASES = {'calm_part': 'no_augment_part'}  # what variables were called in earlier versions


def main(arguments=None):
    settings = read(globals(), arguments, ALIASES)
    check(settings)
    # PyTorch takes seconds to import: --help and mistakes in variables are answered before that.
    from konohana import distributed
    from konohana.toy.writer import draw_default
    from konohana.training.build import build, prepare, resume
    from konohana.training.engine import fit

    device = prepare(settings)
    with distributed.first_rank_first():
        splits = [settings.train_split, settings.val_split]
        draw_default(settings.path(settings.konohana_dataset_path), settings.path('.'), splits, settings.progress)
    training = build(settings, device)
    with training.run.locked():
        if resume(training, settings):
            fit(training, settings)


def check(settings):
    """Raise UserError naming the first variable whose value makes no sense."""
    require(
        settings,
        **dict.fromkeys(('batch_size', 'accumulate', 'n_epoch', 'eval_every'), (1, 10**9)),
        **dict.fromkeys(('lr', 'warmup_epochs', 'weight_decay', 'save_minutes', 'vram_limit_gib'), (0, None)),
        **dict.fromkeys(('flip', 'colour', 'paste', 'random_erasing', 'ema_decay'), (0, 1)),
        **dict.fromkeys(('backbone_lr', 'repeat_rare', 'small_part', 'no_augment_part'), (0, 1)),
        **{'hue': (0, 0.5), 'num_workers': (0, 256), 'seed': (0, 2**63 - 1), 'clip_norm': (1e-6, None)},
        max_minutes=(0, None),
    )
    low, high = settings.scale
    if not 0.01 <= low <= high <= 100:
        raise UserError(f'scale={low},{high}: the lowest and the highest factor, from 0.01 to 100, like (0.75, 1.6).')
    if not settings.train_split:
        raise UserError("train_split='': name the split to learn, like 'train'.")
    if settings.pretrained not in (None, False, True, 'backbone'):
        raise UserError(
            f"pretrained={settings.pretrained!r}: it is None, True (COCO's weights) or 'backbone' (ImageNet's)."
        )
    if settings.pretrained and settings.init_from:
        raise UserError(f'pretrained={settings.pretrained!r} and init_from={settings.init_from!r}: choose one of them.')
    name = settings.run_name
    if set(name) & set('/\\:*?"<>|') or name != name.strip(' .'):
        raise UserError(f'run_name={name!r}: it becomes the name of a folder, so without / \\ : * ? " < > |.')


if __name__ == '__main__':
    run(main)
