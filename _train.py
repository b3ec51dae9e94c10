"""Train a detector on labelled frames. Edit the variables below, or set them: python _train.py batch_size=8 lr=5e-4

Run it again to resume; delete net.pt, optim.pt and iter.txt to start afresh, or give the next run a run_name. See the
curves in curves.png, or with start_tb.
"""

from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, require_one_of, run

# data
konohana_dataset_path = 'toy_show'  # folder of your dataset; the default, a toy show, is drawn when it is not there
extra_dataset_path = ''  # a second dataset whose training split is added; '' for none
train_split = 'train'  # split to train on
val_split = 'val'  # split to evaluate on; '' for no evaluation
ignore_class = IGNORE_CLASS  # boxes with this name mark regions where nothing is learned or counted
unlabelled = 'background'  # 'ignore': somebody who has no label is neither learned as background nor counted
skip_bad_files = False  # leave out files that have problems instead of stopping

# network
detector = 'konohana'  # what to train: konohana, yolof, solov2_light_r18, fasterrcnn_resnet50_fpn_v2, ...
img_hw = ()  # height and width that frames are resized to inside the detector; () fits the data: (360, 640) for 16:9
use_res2block = False  # konohana: Res2Net's blocks; the files are then net_det3.pt, optim_det3.pt, iter_det3.txt
attention = 'se'  # konohana: attention in its blocks, one of se, coordinate, none
large = False  # konohana: a wider neck and deeper heads, which take twice the time
activation = 'relu6'  # konohana: one of relu6, hardswish, relu, silu, mish, gelu, acon
second_look = True  # konohana: name the found boxes from their own pixels, by a second small network
only_second_look = False  # konohana: train the second look alone; the rest stays as init_from has it
backbone = 'resnet50'  # yolof: any network of torchvision or timm that gives feature maps
frozen_stages = 1  # solov2: 1 freezes the stem and the first stage of its ResNet, 0 trains all of it
norm_eval = True  # solov2: the batch norms of its ResNet keep their running statistics
init_from = ''  # weights file to start from, like 'weights/net.pt'; '' for none
teachers = []  # konohana: weights of trained detectors to learn from too, see docs/training.md; [] for none
pretrained = None  # published weights to start from: True (COCO) or 'backbone' (ImageNet), where there are any

# training
batch_size = 16  # frames in a batch, over all processes
accumulate = 1  # batches whose gradients are summed before a step, for small memory
n_epoch = 22  # number of epochs; few frames need more, see few_frames
few_frames = True  # with init_from, few frames get more epochs and fewer evaluations; False for no change
max_minutes = 0.0  # minutes to train instead of n_epoch, evaluation not counted; 0 for n_epoch
lr = 1e-3  # learning rate after warm-up
warmup_epochs = 1.0  # epochs in which the learning rate rises
weight_decay = 0.05  # weight decay of AdamW
backbone_lr = 0.3  # factor on the learning rate of a backbone that starts from trained weights
clip_norm = 10.0  # largest norm of the gradients; larger ones are clipped
ema_decay = 0.998  # decay of the moving average of the weights, which is evaluated and saved
vram_limit_gib = 3.0  # cap on this process's GPU memory in GiB; 0 for none
amp = True  # half precision where it is safe, on CUDA and on CPUs with AMX
repeat_rare = 0.05  # frames with a name that is in less than this part of all frames are shown up to twice; 0 for none
small_part = 0.65  # first part of training, with frames at two thirds of img_hw: faster (konohana, yolof); 0 for none
group_by_aspect = None  # upright pictures get batches of their own, with img_hw turned; None: if the data have both
seed = 0  # the same seed gives the same run on the same machine

# augmentation
augment = True  # False turns all augmentation off
flip = 0.5  # probability of a horizontal flip
scale = (0.75, 1.6)  # lowest and highest random scale factor
shift = True  # put the scaled frame at a random place
colour = 0.4  # strength of the brightness, contrast and saturation jitter; 0 for none
hue = 0.0  # strength of the hue jitter, 0 to 0.5
mosaic = False  # make half of the samples from four frames
paste = 0.5  # probability that one or two characters cut out of other frames are pasted into a frame
random_erasing = 0.0  # probability that a rectangle is erased
trivial_augment = False  # TrivialAugment's changes of colour and sharpness instead of colour and hue
no_augment_part = 0.0  # last part of training, in which frames are only flipped; 0 for none

# running
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
num_workers = 2  # processes that load frames; 0 for none
keep_frames = ''  # decode frames once and keep them: 'gpu', 'ram', or 'no'; '' takes the first where they easily fit
eval_every = 2  # epochs between evaluations on val
save_minutes = 3.0  # minutes between saves; each epoch is saved too
run_name = ''  # keep everything of this run in <log_path>/<run_name> instead of checkpoint_path
checkpoint_path = '.'  # folder of net.pt, optim.pt, iter.txt and net_best.pt
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
    if not 0 < low <= high:
        raise UserError(f'scale={low},{high}: it takes the lowest and the highest factor, like (0.75, 1.6).')
    for folder in (settings.checkpoint_path, settings.log_path):
        settings.path(folder)  # an empty one, or one that cannot be, is said before the work
    if not settings.train_split:
        raise UserError("train_split='': name the split to learn, like 'train'.")
    check_shape(settings)
    require_one_of(settings, unlabelled=('background', 'ignore'), keep_frames=('', 'no', 'ram', 'gpu'))
    if settings.pretrained not in (None, False, True, 'backbone'):
        raise UserError(
            f"pretrained={settings.pretrained!r}: it is None, True (COCO's weights) or 'backbone' (ImageNet's)."
        )
    if settings.pretrained and settings.init_from:
        raise UserError(f'pretrained={settings.pretrained!r} and init_from={settings.init_from!r}: choose one of them.')
    name = settings.run_name
    if set(name) & set('/\\:*?"<>|') or name != name.strip(' .') or not name.isprintable():
        raise UserError(f'run_name={name!r}: it becomes the name of a folder, so without / \\ : * ? " < > |.')


def check_shape(settings):
    """Raise UserError for an `img_hw` or a `group_by_aspect` that can be none."""
    if settings.img_hw and (len(settings.img_hw) != 2 or not all(type(side) is int for side in settings.img_hw)):
        raise UserError(f'img_hw={settings.img_hw}: it takes height and width, like (360, 640), or () to fit the data.')
    if settings.group_by_aspect not in (None, True, False):
        raise UserError(f'group_by_aspect={settings.group_by_aspect!r}: it is None, True or False.')


if __name__ == '__main__':
    run(main)
